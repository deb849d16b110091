"""`kerneljudge keys`: keys are made, listed and disabled in the database that the settings name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kerneljudge.cli import app
from kerneljudge.service import SqlStore
from kerneljudge.service.access import ApiKey, Scope, digest_of

pytestmark = pytest.mark.integration


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `kerneljudge keys` on a database of its own."""
    monkeypatch.setenv("KERNELJUDGE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments])

    return run


def stored(folder: Path) -> list[ApiKey]:
    """The keys in the database."""

    async def read() -> list[ApiKey]:
        store = await SqlStore.open(f"sqlite:///{folder}/jobs.db", serving=False)
        try:
            return await store.keys()
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_new_keys_secret_is_all_of_standard_output(
    keys: Callable[..., Result], tmp_path: Path
) -> None:
    made = keys("create", "trainer")
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert secret.startswith("kj_")
    assert "is not shown again" in made.stderr
    (key,) = stored(tmp_path)
    assert key.digest == digest_of(secret)
    assert (key.name, key.scopes) == ("trainer", {Scope.SUBMIT, Scope.READ})
    assert (key.weight, key.max_unfinished, key.requests_per_minute) == (1.0, None, None)


def test_what_a_key_may_do_is_said_when_it_is_made(
    keys: Callable[..., Result], tmp_path: Path
) -> None:
    made = keys(
        *("create", "ci", "--scope", "submit, admin", "--weight", "2.5", "--max-unfinished", "9"),
        *("--requests-per-minute", "60", "--max-priority", "-1", "--json"),
    )
    told = json.loads(made.stdout)
    (key,) = stored(tmp_path)
    assert key.digest == digest_of(told["secret"])
    assert key.scopes == {Scope.SUBMIT, Scope.ADMIN}
    assert (key.weight, key.max_unfinished, key.requests_per_minute) == (2.5, 9, 60)
    assert key.max_priority == -1
    assert told["key_id"] == key.key_id


def test_the_list_has_every_key_and_no_secret(
    keys: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [keys("create", name).stdout.strip() for name in ("first", "second")]
    told = keys("list", "--json")
    assert [key["name"] for key in json.loads(told.stdout)["keys"]] == ["first", "second"]
    monkeypatch.setenv("COLUMNS", "80")
    table = keys("list").stdout
    assert "first" in table
    # What `keys disable` takes is whole on a narrow terminal too.
    for key in json.loads(told.stdout)["keys"]:
        assert key["key_id"] in table
    for secret in secrets:
        assert secret not in told.stdout + table
        assert digest_of(secret) not in told.stdout + table


def test_a_disabled_key_stays_in_the_list_and_its_name_is_free(
    keys: Callable[..., Result], tmp_path: Path
) -> None:
    key_id = json.loads(keys("create", "old", "--json").stdout)["key_id"]
    taken = keys("create", "old")
    assert taken.exit_code == 2
    assert "old" in taken.stderr
    disabled = keys("disable", key_id, "--json")
    assert json.loads(disabled.stdout)["disabled_at"] > 0
    assert [key.enabled for key in stored(tmp_path)] == [False]
    assert keys("create", "old").exit_code == 0
    assert keys("disable", key_id).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "a", "--scope", "write"), "--scope must name some of submit, read, admin"),
        (("create", "a", "--scope", ""), "--scope must name some of"),
        (("create", "a", "--weight", "0"), "--weight must lie between"),
        (("create", "a", "--weight", "nan"), "--weight must lie between"),
        (("create", ""), "1 to 100 printable characters"),
        (("create", "a\nb"), "1 to 100 printable characters"),
        (("disable", "key_unknown"), "there is no key 'key_unknown'"),
    ],
)
def test_what_makes_no_sense_is_a_mistake_of_usage(
    keys: Callable[..., Result], arguments: tuple[str, ...], complaint: str
) -> None:
    refused = keys(*arguments)
    assert refused.exit_code == 2
    assert complaint in refused.stderr


def test_a_database_that_cannot_be_opened_is_no_mistake_of_usage(
    keys: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("this is no database, however long it is")
    failed = keys("list", "--database", f"sqlite:///{tmp_path}/text.db")
    assert failed.exit_code == 3
