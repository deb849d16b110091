"""A judge that loses a job, a runner, a builder, its zygote or its own life; and one that is told
to let go. All of it on one CPU device, whose judge is a real one."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pairs import REFERENCE, candidate, kernel
from processes import alive, command_lines, descendants, parent

from kerneljudge.building import Toolchain
from kerneljudge.schema import CompareRequest, JobReport, Phase, Verdict
from kerneljudge.service import EvaluatorUnavailable, Settings
from kerneljudge.service import fleet as fleet_module
from kerneljudge.service.evaluator import DeviceHealth
from kerneljudge.service.fleet import Fleet
from kerneljudge.service.self_test import SELF_TEST, SELF_TEST_WITH_TRITON

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

GOOD = candidate("return b + a")
ENDLESS = candidate("open('entered', 'w').write(str(os.getpid()))\nwhile True: pass", "import os")
# Ends when the test puts a file beside it.
UNTIL_TOLD = candidate(
    """
    if not os.path.exists("go"):
        with open("new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("new", "entered")
    while not os.path.exists("go"):
        time.sleep(0.01)
    return a + b
    """,
    "import os, time",
)
TENSOR = {"shape": [16], "dtype": "float32"}
CONTRACT = {
    "args": [
        {"name": "x", "type": "tensor", "role": "output", "tensor_spec": TENSOR},
    ],
    "launch": {"grid": {"x": 1}, "block": {"x": 16}},
}
# Four million templates, of which each is made on its own: minutes for any compiler.
HUGE = """
template <int N, long M> struct Tree {
    static const long sum = Tree<N - 1, 2 * M>::sum + Tree<N - 1, 2 * M + 1>::sum;
};
template <long M> struct Tree<0, M> { static const long sum = M; };
"""
EXTENSION = f'''
import torch
from torch.utils.cpp_extension import load_inline

cpp_source = """{HUGE}
long sum() {{ return Tree<22, 1>::sum; }}
torch::Tensor forward(torch::Tensor a);
"""
cuda_source = """
__global__ void fill(float* a) {{ a[0] = 1; }}
torch::Tensor forward(torch::Tensor a) {{ fill<<<1, 1>>>(a.data_ptr<float>()); return a; }}
"""
module = load_inline(
    name="huge", cpp_sources=cpp_source, cuda_sources=cuda_source, functions=["forward", "sum"]
)


class ModelNew(torch.nn.Module):
    def forward(self, a, b):
        return module.forward(a)
'''

# The same, built when it is timed: the second call is no trial any more.
LATE_EXTENSION = EXTENSION.replace("module = load_inline", "build = lambda: load_inline").replace(
    "        return module.forward(a)",
    "        ModelNew.calls = getattr(ModelNew, 'calls', 0) + 1\n"
    "        return a + b if ModelNew.calls == 1 else build().forward(a)",
)


def huge(number: int) -> dict[str, Any]:
    """A CUDA kernel that takes minutes to compile, each number another one."""
    source = f"{HUGE} __global__ void fill(float* x) {{ x[{number}] = Tree<22, {number}>::sum; }}"
    return kernel(source, "cuda", io=CONTRACT)


def small(number: int) -> dict[str, Any]:
    """A CUDA kernel that is compiled at once."""
    return kernel(
        f"__global__ void fill(float* x) {{ x[threadIdx.x] = {number}; }}", "cuda", io=CONTRACT
    )


def against(custom_kernel: dict[str, Any], **fields: Any) -> CompareRequest:
    """A comparison with the candidate."""
    return CompareRequest.model_validate(
        {"ref_kernel": kernel(REFERENCE), "custom_kernel": custom_kernel, "num_trials": 2} | fields
    )


def needs_the_fast_way() -> None:
    """Skips where torch extensions cannot be built."""
    if missing := Toolchain.detect().missing_for_fast():
        pytest.skip(f"this machine lacks {', '.join(missing)}")


async def until(true: Callable[[], Any]) -> Any:
    """What `true` returns, once that is something."""
    async with asyncio.timeout(120):
        while not (found := true()):
            await asyncio.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, as the fleet belongs to it."""
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the judges have their folders."""
    made = tmp_path_factory.mktemp("judges")
    for path in (made, *made.parents[:3]):
        path.chmod(path.stat().st_mode | 0o111)
    return made


class Judges:
    """A fleet of one device, and what the tests see and do to its processes."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.folder = folder
        self.healths: asyncio.Queue[DeviceHealth] = asyncio.Queue()
        fleet.on_change(lambda: self.healths.put_nowait(fleet.devices()[0].health))
        self._jobs = 0

    def begin(self, request: CompareRequest) -> asyncio.Task[JobReport]:
        """A job on the device."""
        self._jobs += 1
        return asyncio.create_task(
            self.fleet.judge(f"job-{self._jobs}", request, lambda _: None, 0)
        )

    @property
    def pid(self) -> int:
        """The judge."""
        (pid,) = (
            pid
            for pid, line in command_lines(descendants(os.getpid())).items()
            # Not that of a server which other tests have started.
            if "kerneljudge.judging" in line and parent(pid) == os.getpid()
        )
        return pid

    @property
    def zygote(self) -> int:
        """The judge's zygote."""
        lines = command_lines(descendants(self.pid))
        (pid,) = (
            pid
            for pid, line in lines.items()
            if "kerneljudge.runtime.zygote" in line and parent(pid) == self.pid
        )
        return pid

    def entered(self) -> Path | None:
        """The file that a kernel writes when it is called; its content is the runner's number."""
        return next(self.folder.glob("kerneljudge-*/kerneljudge-*/runner-*/entered"), None)

    def runners(self) -> int:
        """How many there are, those that stand by and those of ended jobs included."""
        return len(list(self.folder.glob("kerneljudge-*/kerneljudge-*/runner-*")))

    def building(self) -> bool:
        """Whether a builder is at work."""
        return any(self.folder.glob("kerneljudge-*/kerneljudge-*/builder-*"))

    def compiling(self) -> int | None:
        """The builder that runs a C++ compiler."""
        for pid, line in command_lines(descendants(self.zygote)).items():
            if "kerneljudge.runtime.zygote" in line and any(
                "cc1plus" in compiler for compiler in command_lines(descendants(pid)).values()
            ):
                return pid
        return None

    async def is_in_order(self) -> None:
        """Fails unless nothing is left of any job, and the next is judged."""
        assert self.fleet.devices()[0].jobs == 0
        assert self.fleet.builders()["busy"] == self.fleet.builders()["waiting"] == 0
        assert not self.building()
        report = await self.begin(against(GOOD))
        assert report.verdict is Verdict.ACCEPTED, report


async def cancelled(job: asyncio.Task[JobReport]) -> None:
    """Cancels a job and waits until the judge has let go of it."""
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


@pytest.fixture(scope="module")
async def fleet(folder: Path, pytestconfig: pytest.Config) -> AsyncIterator[Fleet]:
    """A fleet with one builder that is soon quarantined, and soon tested."""
    # The header that every extension includes takes long to compile; it is kept between sessions.
    assert pytestconfig.cache is not None
    include = pytestconfig.cache.mkdir("kerneljudge-builds") / "include"
    include.mkdir(exist_ok=True)
    (folder / "cache").mkdir()
    (folder / "cache/include").symlink_to(include)
    patch = pytest.MonkeyPatch()
    patch.setattr(tempfile, "tempdir", str(folder))
    fleet = Fleet(
        Settings(
            devices=("cpu",),
            cache_dir=folder / "cache",
            standby=1,
            reference_runners=0,
            builders=1,
            quarantine_failures=2,
            quarantine_seconds=0.1,
        )
    )
    await fleet.start()
    yield fleet
    await fleet.stop()
    patch.undo()
    assert not list(folder.glob("kerneljudge-*"))


@pytest.fixture
async def judges(fleet: Fleet, folder: Path) -> AsyncIterator[Judges]:
    """The fleet; nothing is left of the test's jobs after it."""
    judges = Judges(fleet, folder)
    yield judges
    await judges.is_in_order()


async def test_a_kernel_that_runs_without_end_is_cancelled(judges: Judges) -> None:
    job = judges.begin(against(ENDLESS, timeout=600))
    entered = await until(judges.entered)
    runner = int(await until(entered.read_text))
    await cancelled(job)
    assert not alive(runner)


async def test_a_job_that_waits_for_the_device_is_cancelled_and_the_next_has_its_turn(
    judges: Judges,
) -> None:
    running = judges.begin(against(UNTIL_TOLD))
    entered = await until(judges.entered)
    waiting = judges.begin(against(GOOD))
    after = judges.begin(against(GOOD))
    await cancelled(waiting)
    assert not running.done()
    assert judges.fleet.devices()[0].jobs == 2
    (entered.parent / "go").touch()
    assert (await running).verdict is Verdict.ACCEPTED
    assert (await after).verdict is Verdict.ACCEPTED


@pytest.mark.cuda
async def test_builders_are_bounded_and_a_build_is_cancelled_while_it_runs_or_waits(
    judges: Judges,
) -> None:
    first = await judges.begin(against(small(1)))
    assert first.candidate.build is not None
    assert (first.candidate.build.hits, first.candidate.build.misses) == (0, 1)

    building = judges.begin(against(huge(1), timeout=600))
    await until(judges.building)
    waiting = judges.begin(against(huge(2), timeout=600))
    await until(lambda: judges.fleet.builders()["waiting"])
    assert judges.fleet.builders() == {"size": 1, "busy": 1, "waiting": 1}
    # Neither what is in the cache nor what needs no build waits for a builder.
    again = await judges.begin(against(small(1)))
    assert again.candidate.build is not None
    assert (again.candidate.build.hits, again.candidate.build.misses) == (1, 0)
    assert again.candidate.build.cached
    assert (await judges.begin(against(GOOD))).verdict is Verdict.ACCEPTED

    await cancelled(waiting)
    assert judges.fleet.builders() == {"size": 1, "busy": 1, "waiting": 0}
    same = judges.begin(against(huge(1), timeout=600))  # waits for the build of the first
    third = judges.begin(against(small(3)))
    await until(lambda: judges.fleet.builders()["waiting"])
    await cancelled(same)
    await cancelled(building)
    assert (await third).verdict is Verdict.UNSUPPORTED


@pytest.mark.cuda
async def test_waiting_for_a_builder_is_not_charged_to_the_job(judges: Judges) -> None:
    building = judges.begin(against(huge(1), timeout=600))
    await until(judges.building)
    waiting = judges.begin(against(small(4), timeout=5))
    await until(lambda: judges.fleet.builders()["waiting"])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 6)
    await cancelled(building)
    assert (await waiting).verdict is Verdict.UNSUPPORTED


async def test_a_build_that_a_loading_kernel_asked_for_is_cancelled_and_held_no_device(
    judges: Judges,
) -> None:
    needs_the_fast_way()
    job = judges.begin(against(kernel(EXTENSION, "torch_cuda"), timeout=600))
    await until(judges.building)
    assert (await judges.begin(against(GOOD))).verdict is Verdict.ACCEPTED
    await cancelled(job)


async def test_a_build_that_a_timed_kernel_asked_for_holds_nobody_back_and_is_no_use_of_the_device(
    judges: Judges,
) -> None:
    needs_the_fast_way()
    late = kernel(LATE_EXTENSION, "torch_cuda")
    job = judges.begin(against(late, timeout=15, num_checks=1))
    await until(judges.building)
    assert (await judges.begin(against(GOOD))).verdict is Verdict.ACCEPTED
    # Ended while the other's measurement stands still: its own two, and the one that stands by.
    await until(lambda: judges.runners() <= 3)
    assert not job.done()
    report = await job
    assert report.phase is Phase.PROFILE
    assert report.fault is not None
    seconds = report.phase_seconds
    assert seconds["build"] > max(seconds["check"], seconds["profile"])


async def test_a_reference_has_a_new_process_each_time_where_the_configuration_wants_it(
    judges: Judges,
) -> None:
    for _ in range(3):
        report = await judges.begin(against(GOOD))
        assert report.reference is not None
        assert (report.verdict, report.reference.reused) == (Verdict.ACCEPTED, 0)


async def test_a_job_whose_runner_is_killed_begins_again_once(judges: Judges) -> None:
    job = judges.begin(against(UNTIL_TOLD))
    entered = await until(judges.entered)
    os.kill(int(entered.read_text()), signal.SIGKILL)
    await until(lambda: not entered.exists())
    entered = await until(judges.entered)
    (entered.parent / "go").touch()
    assert (await job).verdict is Verdict.ACCEPTED


async def test_a_runner_that_is_killed_again_is_told_as_the_crash_that_it_is(
    judges: Judges,
) -> None:
    job = judges.begin(against(candidate("os.kill(os.getpid(), 9)", "import os")))
    report = await job
    assert report.verdict is Verdict.CRASHED
    assert report.fault is not None
    assert report.fault.exit_code == -signal.SIGKILL
    assert "SIGKILL" in report.fault.message
    assert report.fault.hint


async def test_a_job_whose_builder_is_killed_begins_again(judges: Judges) -> None:
    needs_the_fast_way()
    job = judges.begin(against(kernel(EXTENSION, "torch_cuda"), timeout=600))
    killed = await until(judges.compiling)
    os.kill(killed, signal.SIGKILL)
    assert await until(judges.compiling) != killed
    await cancelled(job)


async def test_a_job_outlives_two_zygotes(judges: Judges) -> None:
    job = judges.begin(against(UNTIL_TOLD))
    for _ in range(2):
        entered = await until(judges.entered)
        os.kill(judges.zygote, signal.SIGKILL)
        await until(lambda entered=entered: not entered.exists())
    entered = await until(judges.entered)
    (entered.parent / "go").touch()
    assert (await job).verdict is Verdict.ACCEPTED


async def test_a_judge_that_is_killed_is_replaced_and_leaves_nothing(judges: Judges) -> None:
    running = judges.begin(against(UNTIL_TOLD))
    await until(judges.entered)
    building = judges.begin(against(huge(6), timeout=600))
    await until(judges.building)
    judge = judges.pid
    processes = {judge, *descendants(judge)}
    os.kill(judge, signal.SIGKILL)
    for job in (running, building):
        with pytest.raises(EvaluatorUnavailable, match="the judge of cpu was killed by SIGKILL"):
            await job
    assert not any(alive(pid) for pid in processes)
    assert judges.fleet.builders() == {"size": 1, "busy": 0, "waiting": 0}
    with pytest.raises(EvaluatorUnavailable, match="takes no jobs now: its judge was killed"):
        await judges.begin(against(GOOD))
    assert await judges.healths.get() is DeviceHealth.STARTING
    assert await judges.healths.get() is DeviceHealth.READY
    assert judges.pid != judge


async def test_a_device_whose_judge_keeps_dying_is_quarantined_until_its_self_test(
    judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "SELF_TEST", against(UNTIL_TOLD))
    os.kill(judges.pid, signal.SIGKILL)
    assert await judges.healths.get() is DeviceHealth.STARTING
    assert await judges.healths.get() is DeviceHealth.READY
    os.kill(judges.pid, signal.SIGKILL)
    assert await judges.healths.get() is DeviceHealth.STARTING
    assert await judges.healths.get() is DeviceHealth.QUARANTINED
    assert judges.fleet.devices()[0].reason == "its judge was killed by SIGKILL"
    assert not judges.fleet.devices()[0].ready
    with pytest.raises(EvaluatorUnavailable, match="SIGKILL"):
        await judges.begin(against(GOOD))
    await until(judges.entered)
    monkeypatch.undo()
    os.kill(judges.pid, signal.SIGKILL)
    assert await judges.healths.get() is DeviceHealth.READY


@pytest.mark.triton
@pytest.mark.parametrize("request_", [SELF_TEST, SELF_TEST_WITH_TRITON])
async def test_the_self_tests_are_accepted(judges: Judges, request_: CompareRequest) -> None:
    assert (await judges.begin(request_)).verdict is Verdict.ACCEPTED


async def test_a_device_with_internal_errors_is_quarantined_after_its_other_jobs(
    judges: Judges,
) -> None:
    other = judges.begin(against(UNTIL_TOLD))
    entered = await until(judges.entered)
    builds = judges.folder / "cache/builds"
    builds.rename(builds.with_name("aside"))
    builds.touch()
    for number in range(2):
        report = await judges.begin(against(small(10 + number)))
        assert report.verdict is Verdict.INTERNAL_ERROR
    state = judges.fleet.devices()[0]
    assert (state.health, state.jobs) == (DeviceHealth.QUARANTINED, 1)
    builds.unlink()
    builds.with_name("aside").rename(builds)
    (entered.parent / "go").touch()
    assert (await other).verdict is Verdict.ACCEPTED
    assert await judges.healths.get() is DeviceHealth.QUARANTINED
    assert await judges.healths.get() is DeviceHealth.READY
