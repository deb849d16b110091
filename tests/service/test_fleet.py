"""What a fleet is made of: which devices, how many builders, and judges that do not start."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.judging import host
from kerneljudge.service import EvaluatorUnavailable, Settings
from kerneljudge.service.builders import BuilderPool
from kerneljudge.service.evaluator import DeviceHealth
from kerneljudge.service.fleet import Fleet
from kerneljudge.service.gpus import choose, visible_gpus
from kerneljudge.service.judge_process import JudgeProcess

GPUS = ["GPU-11112222-aaaa", "GPU-11113333-bbbb", "GPU-44445555-cccc"]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an `nvidia-smi` on PATH that runs this shell script."""

    def put(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.fixture
def three_gpus(nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi("\n".join(f"echo {uuid}" for uuid in GPUS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.unit
@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        (None, GPUS),
        ("", []),
        ("2, 0", [GPUS[2], GPUS[0]]),
        ("1,7,0", [GPUS[1]]),
        ("-1", []),
        ("0,-1,1", [GPUS[0]]),
        ("NoDevFiles", []),
        (f"{GPUS[1]},{GPUS[0]}", [GPUS[1], GPUS[0]]),
        ("GPU-4444", [GPUS[2]]),
        ("GPU-1111,0", []),
        ("0,GPU-99,1", [GPUS[0]]),
        ("0,0,1", [GPUS[0]]),
        ("MIG-5555-dddd", ["MIG-5555-dddd"]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, visible: list[str]
) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == visible


@pytest.mark.unit
@pytest.mark.usefixtures("three_gpus")
def test_devices_are_numbered_among_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert choose(("auto",)) == [("cuda:0", "cuda", GPUS[2]), ("cuda:1", "cuda", GPUS[1])]
    assert choose(("cuda:1", "cpu")) == [("cuda:1", "cuda", GPUS[1]), ("cpu", "cpu", None)]
    with pytest.raises(EvaluatorUnavailable, match="cuda:2 was asked for; this machine has 2"):
        choose(("cuda:2",))


@pytest.mark.unit
def test_without_a_gpu_auto_is_the_cpu(
    nvidia_smi: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    nvidia_smi("echo no driver >&2; exit 9")
    assert choose(("auto",)) == [("cpu", "cpu", None)]
    assert "nvidia-smi" in caplog.text


@pytest.mark.unit
def test_a_control_group_bounds_what_there_is(tmp_path: Path) -> None:
    everything = host.memory_bytes(tmp_path), host.cpus(tmp_path)
    assert everything[0] > 2**28

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,cpuacct:/job\n3:memory:/job\n0::/a/b\n")
    version_2 = tmp_path / "sys/fs/cgroup"
    (version_2 / "a/b").mkdir(parents=True)
    (version_2 / "a/b/memory.max").write_text("max\n")
    (version_2 / "a/b/cpu.max").write_text("max 100000\n")
    assert (host.memory_bytes(tmp_path), host.cpus(tmp_path)) == everything

    (version_2 / "a/memory.max").write_text("123456789\n")
    (version_2 / "a/cpu.max").write_text("50000 100000\n")
    assert (host.memory_bytes(tmp_path), host.cpus(tmp_path)) == (123456789, 1)

    version_1 = version_2 / "memory"
    version_1.mkdir()
    (version_1 / "memory.limit_in_bytes").write_text("23456789\n")
    assert host.memory_bytes(tmp_path) == 23456789


Steps = list[tuple[str, int, int]]


@pytest.mark.unit
@given(
    size=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["want", "end", "drop"]), st.integers(0, 2), st.integers(0, 4))
    ),
)
def test_permits_are_bounded_and_given_in_order(size: int, steps: Steps) -> None:
    pool = BuilderPool(size)
    asked: list[tuple[int, int]] = []
    granted: list[tuple[int, int]] = []
    for step, holder, number in steps:
        permit = (holder, number)
        if step == "want" and permit not in asked:
            asked.append(permit)
            pool.want(holder, number, partial(granted.append, permit))
        elif step == "end":
            pool.end(holder, number)
            asked = [other for other in asked if other != permit]
            granted[:] = [other for other in granted if other != permit]
        elif step == "drop":
            pool.drop(holder)
            asked = [other for other in asked if other[0] != holder]
            granted[:] = [other for other in granted if other[0] != holder]
        assert granted == asked[:size]
        assert (pool.busy, pool.waiting) == (len(granted), len(asked) - len(granted))


def settings(tmp_path: Path, **fields: object) -> Settings:
    return Settings.model_validate(
        {"devices": ("cpu",), "cache_dir": tmp_path / "cache", "standby": 0, **fields}
    )


@pytest.mark.integration
@pytest.mark.anyio
async def test_a_judge_that_takes_too_long_to_start_is_killed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fleet = Fleet(settings(tmp_path, start_timeout=0.2))
    with pytest.raises(EvaluatorUnavailable, match=r"cpu: its judge took no jobs within 0.2 s"):
        await fleet.start()
    assert not list(tmp_path.glob("kerneljudge-*"))


@pytest.mark.integration
@pytest.mark.anyio
async def test_a_process_that_cannot_be_started_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    fleet = Fleet(settings(tmp_path))
    with pytest.raises(EvaluatorUnavailable, match=r"could not be started.*no-python"):
        await fleet.start()
    assert not list(tmp_path.glob("kerneljudge-*"))


@pytest.mark.integration
@pytest.mark.anyio
async def test_the_devices_that_start_serve_and_the_one_that_does_not_is_quarantined(
    tmp_path: Path, nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi("echo GPU-00000000-0000-0000-0000-000000000000")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fleet = Fleet(settings(tmp_path, devices=("cuda:0", "cpu"), quarantine_seconds=600))
    await fleet.start()
    try:
        broken, working = fleet.devices()
        assert (broken.health, broken.ready) == (DeviceHealth.QUARANTINED, False)
        assert broken.reason == "its judge ended with exit code 1"
        assert (working.health, working.ready) == (DeviceHealth.READY, True)
        assert working.memory_bytes == host.memory_bytes()
        assert broken.memory_bytes is None
        assert "no_new_privs" in {layer.name for layer in working.layers if layer.active}
        assert broken.layers == []
    finally:
        await fleet.stop()
    assert {state.health for state in fleet.devices()} == {DeviceHealth.STOPPED}


@pytest.mark.integration
@pytest.mark.anyio
async def test_a_device_that_fails_for_weeks_is_tried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0
    judges: list[JudgeProcess] = []
    enough = asyncio.Event()

    def once(*arguments: Any) -> JudgeProcess:
        nonlocal tries
        tries += 1
        if judges:
            if tries > 1100:
                enough.set()
            raise OSError("no process to give")
        judges.append(JudgeProcess(*arguments))
        return judges[0]

    monkeypatch.setattr("kerneljudge.service.fleet.JudgeProcess", once)
    monkeypatch.setattr("kerneljudge.service.fleet._LONGEST_QUARANTINE", 1e-6)
    fleet = Fleet(settings(tmp_path, quarantine_failures=1, quarantine_seconds=1e-6))
    await fleet.start()
    try:
        judges[0].kill()
        async with asyncio.timeout(120):
            await enough.wait()
    finally:
        await fleet.stop()
