"""What the caches take on disk is bounded."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from kerneljudge.building import BuildCache, BuildResult
from kerneljudge.judging.caches import BUILDS, TRITON_KERNELS, evict_caches

pytestmark = pytest.mark.unit

ENTRY_BYTES = 64 * 1024


def publish(cache: BuildCache, key: str, scratch: Path) -> Path:
    """The folder of a new entry that takes about `ENTRY_BYTES`."""
    scratch.mkdir(exist_ok=True)
    artefact = scratch / "kernel.cubin"
    artefact.write_bytes(os.urandom(ENTRY_BYTES))
    result = BuildResult(ok=True, way="nvrtc", artefacts={"cubin": artefact})
    return cache.publish(key, result).artefacts["cubin"].parent


def age(entry: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(entry, (then, then))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def builds(folder: Path) -> BuildCache:
    return BuildCache(folder / BUILDS)


def test_the_longest_unused_entries_go_until_the_rest_fits(
    folder: Path, builds: BuildCache, tmp_path: Path
) -> None:
    keys = [f"{number:02x}" * 32 for number in range(8)]
    for number, key in enumerate(keys):
        age(publish(builds, key, tmp_path / "scratch"), hours=24 - number)
    done = evict_caches(folder, max_bytes=5 * ENTRY_BYTES)
    assert done is not None
    assert done.kept_bytes <= 5 * ENTRY_BYTES
    kept = [builds.lookup(key) is not None for key in keys]
    assert kept == [False] * done.entries + [True] * (8 - done.entries)
    assert done.freed_bytes >= done.entries * ENTRY_BYTES


def test_a_use_makes_an_entry_young(folder: Path, builds: BuildCache, tmp_path: Path) -> None:
    old, older = "aa" * 32, "bb" * 32
    age(publish(builds, old, tmp_path / "scratch"), hours=2)
    age(publish(builds, older, tmp_path / "scratch"), hours=3)
    assert builds.lookup(older) is not None
    evict_caches(folder, max_bytes=ENTRY_BYTES + ENTRY_BYTES // 2)
    assert builds.lookup(older) is not None
    assert builds.lookup(old) is None


def test_what_a_job_may_be_copying_stays_even_above_the_bound(
    folder: Path, builds: BuildCache, tmp_path: Path
) -> None:
    publish(builds, "cc" * 32, tmp_path / "scratch")
    done = evict_caches(folder, max_bytes=1)
    assert done is not None
    assert done.entries == 0
    assert builds.lookup("cc" * 32) is not None


def test_compiled_triton_kernels_count_and_go_as_well(
    folder: Path, builds: BuildCache, tmp_path: Path
) -> None:
    age(publish(builds, "dd" * 32, tmp_path / "scratch"), hours=1)
    kernel = folder / TRITON_KERNELS / ("ee" * 32)
    (kernel / "SOMEHASH").mkdir(parents=True)
    (kernel / "SOMEHASH" / "add.cubin").write_bytes(os.urandom(ENTRY_BYTES))
    age(kernel, hours=2)
    evict_caches(folder, max_bytes=ENTRY_BYTES + ENTRY_BYTES // 2)
    assert not kernel.exists()
    assert builds.lookup("dd" * 32) is not None


def test_nothing_goes_within_the_bound(folder: Path, builds: BuildCache, tmp_path: Path) -> None:
    age(publish(builds, "ff" * 32, tmp_path / "scratch"), hours=100)
    done = evict_caches(folder, max_bytes=2**30)
    assert done is not None
    assert (done.entries, done.freed_bytes) == (0, 0)
    assert builds.lookup("ff" * 32) is not None


def test_one_process_evicts_at_a_time(folder: Path, builds: BuildCache, tmp_path: Path) -> None:
    age(publish(builds, "ab" * 32, tmp_path / "scratch"), hours=1)
    with (folder / ".evicting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert evict_caches(folder, max_bytes=1) is None
    assert builds.lookup("ab" * 32) is not None


def test_what_an_interrupted_round_left_is_removed(
    folder: Path, builds: BuildCache, tmp_path: Path
) -> None:
    publish(builds, "ac" * 32, tmp_path / "scratch").rename(folder / ".evicted-ac")
    evict_caches(folder, max_bytes=2**30)
    assert not (folder / ".evicted-ac").exists()
