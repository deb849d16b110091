"""The content-addressed cache of builds."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from kerneljudge.building import BuildCache, BuildResult, DeviceBuild, Toolchain, cache_key
from kerneljudge.building.toolchain import TorchFiles

pytestmark = pytest.mark.unit

KEY = "ab" * 32
REQUEST = DeviceBuild(source="__global__ void k() {}", architecture="sm_90")


@pytest.fixture
def cache(tmp_path: Path) -> BuildCache:
    return BuildCache(tmp_path / "cache")


def built(folder: Path, content: bytes = b"cubin", **fields: object) -> BuildResult:
    folder.mkdir(exist_ok=True)
    path = folder / "kernel.cubin"
    path.write_bytes(content)
    result = BuildResult(
        ok=True, way="nvrtc", artefacts={"cubin": path}, manifest={"entry": "k"}, seconds=1.5
    )
    return result.model_copy(update=fields)


def test_what_is_published_is_found_again_with_its_files(cache: BuildCache, tmp_path: Path) -> None:
    assert cache.lookup(KEY) is None
    published = cache.publish(KEY, built(tmp_path / "scratch"))
    assert not published.cached
    found = cache.lookup(KEY)
    assert found is not None
    assert found.cached
    assert found.seconds == 0
    assert found.manifest == {"entry": "k"}
    assert found.artefacts["cubin"].read_bytes() == b"cubin"
    assert found.artefacts == published.artefacts
    assert tmp_path / "scratch" not in found.artefacts["cubin"].parents


def test_files_in_the_cache_can_be_read_by_other_users_and_not_be_written(
    cache: BuildCache, tmp_path: Path
) -> None:
    path = cache.publish(KEY, built(tmp_path / "scratch")).artefacts["cubin"]
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.parent.stat().st_mode & 0o005 == 0o005


def test_failures_are_not_kept(cache: BuildCache) -> None:
    failure = BuildResult(ok=False, way="nvrtc", log="error", fault="compile_error")
    assert cache.publish(KEY, failure) is failure
    assert cache.lookup(KEY) is None


def test_a_build_that_read_other_files_is_not_kept(cache: BuildCache, tmp_path: Path) -> None:
    result = built(tmp_path / "scratch", manifest={"depends_on_other_files": True})
    published = cache.publish(KEY, result)
    assert cache.lookup(KEY) is None
    # Its files are there all the same, after those of the builder are gone.
    result.artefacts["cubin"].unlink()
    assert published.artefacts["cubin"].read_bytes() == b"cubin"


@pytest.mark.parametrize("damage", ["missing", "truncated", "manifest"])
def test_a_damaged_entry_is_no_entry_and_can_be_published_again(
    cache: BuildCache, tmp_path: Path, damage: str
) -> None:
    path = cache.publish(KEY, built(tmp_path / "scratch")).artefacts["cubin"]
    path.chmod(0o644)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(b"cu")
    else:
        (path.parent / "result.json").write_text("{")
    assert cache.lookup(KEY) is None
    cache.publish(KEY, built(tmp_path / "scratch"))
    found = cache.lookup(KEY)
    assert found is not None
    assert found.artefacts["cubin"].read_bytes() == b"cubin"


def test_an_artefact_that_points_elsewhere_is_refused(cache: BuildCache, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    result = built(tmp_path / "scratch")
    result.artefacts["cubin"].unlink()
    result.artefacts["cubin"].symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        cache.publish(KEY, result)
    assert cache.lookup(KEY) is None


def test_a_folder_or_a_pipe_is_no_artefact(cache: BuildCache, tmp_path: Path) -> None:
    result = built(tmp_path / "scratch", artefacts={"cubin": tmp_path})
    with pytest.raises((ValueError, OSError)):
        cache.publish(KEY, result)


def test_names_of_artefacts_do_not_reach_the_cache(cache: BuildCache, tmp_path: Path) -> None:
    odd = tmp_path / "..so"
    odd.write_bytes(b"x")
    result = built(tmp_path / "scratch", artefacts={"../../library": odd})
    path = cache.publish(KEY, result).artefacts["../../library"]
    assert path.parent.parent.parent == tmp_path / "cache"


@pytest.mark.parametrize("key", ["", "../x", "AB" * 32, "ab" * 31])
def test_a_key_is_a_hash_and_nothing_else(cache: BuildCache, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        cache.lookup(key)


def test_one_key_is_held_by_one_at_a_time(cache: BuildCache) -> None:
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.wait()
        with cache.lock(KEY):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with cache.lock(KEY):
        entered.set()
        with cache.lock("cd" * 32):  # another key is free
            order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_key_depends_on_everything_that_artefacts_depend_on() -> None:
    toolchain = Toolchain(cxx_version="12.2.0", nvcc_version="13.0.88", nvrtc_version=(13, 0))
    torch = TorchFiles(root=Path("/torch"), version="2.13.0", cuda="13.0", standard="c++20")
    keys = {
        cache_key(REQUEST, toolchain),
        cache_key(REQUEST.model_copy(update={"source": "x"}), toolchain),
        cache_key(REQUEST.model_copy(update={"options": ["-G"]}), toolchain),
        cache_key(REQUEST.model_copy(update={"architecture": "sm_80"}), toolchain),
        cache_key(REQUEST, dataclasses.replace(toolchain, cxx_version="13.1.0")),
        cache_key(REQUEST, dataclasses.replace(toolchain, nvcc_version="13.1.0")),
        cache_key(REQUEST, dataclasses.replace(toolchain, nvrtc_version=(13, 1))),
        cache_key(REQUEST, dataclasses.replace(toolchain, torch=torch)),
    }
    assert len(keys) == 8
    assert cache_key(REQUEST, toolchain) == cache_key(REQUEST.model_copy(), toolchain)
