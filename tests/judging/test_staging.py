"""What the judge puts into folders that are not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerneljudge.judging.staging import staged

pytestmark = pytest.mark.unit


def put(target: Path) -> None:
    with staged(target) as staging:
        staging.mkdir()
        (staging / "file").write_text("text")


def test_a_folder_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "runner" / "made"
    target.parent.mkdir()
    with staged(target) as staging:
        staging.mkdir()
        (staging / "file").write_text("text")
        assert not target.exists()
        assert not list(target.parent.iterdir())
    assert (target / "file").read_text() == "text"
    assert list(tmp_path.iterdir()) == [target.parent]


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_lies_at_the_target_is_not_written_to(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "runner" / "made"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target.parent.mkdir()
    if kind == "link":
        target.symlink_to(elsewhere)
    else:
        target.mkdir()
        (target / "theirs").touch()
    with pytest.raises(OSError, match="made"):
        put(target)
    assert not list(elsewhere.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "runner"]
