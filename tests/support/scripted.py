"""An evaluator that answers as it is told, for tests of what stands around it.

It judges nothing. Its reports are real ones, as a judge would write them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kerneljudge.schema import (
    BuildReport,
    CheckReport,
    ClockReport,
    CompareRequest,
    Environment,
    Fault,
    FaultKind,
    JobReport,
    JobRequest,
    OutputReport,
    Phase,
    RuntimeStats,
    Side,
    SideReport,
    Verdict,
)
from kerneljudge.service import DeviceState

CPU = Environment(
    kerneljudge="0", python="3.11.0", torch="2.13.0", device="cpu", device_name="a processor"
)
H200 = Environment(
    kerneljudge="0",
    python="3.12.0",
    torch="2.11.0",
    triton="3.6.0",
    cuda="13.0",
    driver="580.1",
    device="cuda:3",
    device_name="NVIDIA H200",
    gpu_type="h200",
    architecture="sm_90",
)

STATS = RuntimeStats(
    mean=1.23456,
    std=0.01234,
    min=1.2,
    max=1.3,
    median=1.23,
    percentile_95=1.28,
    percentile_99=1.299,
)


def side(
    *,
    compiled: bool = True,
    runtime: RuntimeStats | None = STATS,
    fault: Fault | None = None,
    way: str = "none",
    cached: bool = False,
    seconds: float = 0.0,
) -> SideReport:
    """One kernel's report, timed by a CUDA graph."""
    return SideReport(
        compiled=compiled,
        kernel_name="add" if compiled else None,
        build=BuildReport.model_validate({"way": way, "cached": cached, "seconds": seconds}),
        fault=fault,
        runtime=runtime,
        clock=ClockReport(name="cuda_graph", warmup=10, samples=100) if runtime else None,
    )


def accepted(request: JobRequest, environment: Environment = CPU) -> JobReport:
    """All went well: two passing trials, times; the candidate twice as fast as the reference."""
    compare = isinstance(request, CompareRequest)
    slow = STATS.model_copy(update={name: 2 * value for name, value in STATS})
    output = OutputReport(
        name="output[0]",
        shape=[4],
        dtype="float32",
        matches=True,
        max_abs_error=0.0,
        mean_abs_error=0.0,
        mismatched_fraction=0.0,
    )
    return JobReport(
        verdict=Verdict.ACCEPTED,
        phase=Phase.DONE,
        candidate=side(),
        reference=side(runtime=slow) if compare else None,
        checks=[
            CheckReport(trial=trial, seed=trial + 40, passed=True, outputs=[output] * compare)
            for trial in range(2)
        ],
        atol=_tolerance(request.atol) if compare else None,
        rtol=_tolerance(request.rtol) if compare else None,
        exact_integers=True if compare else None,
        seed=request.seed if request.seed is not None else 7,
        inputs_from={"x": "contract"},
        transport="shared_memory",
        speedup=2.0 if compare else None,
        phase_seconds={"read": 0.1, "build": 0.2, "load": 0.3, "check": 0.4, "profile": 0.5},
        environment=environment,
    )


def _tolerance(given: float | None) -> float:
    return 1e-2 if given is None else given


def failed(
    request: JobRequest,
    kind: FaultKind,
    phase: Phase,
    whose: Side = "candidate",
    environment: Environment = CPU,
) -> JobReport:
    """One side failed in one phase; the phases before it passed."""
    fault = Fault(
        kind=kind,
        side=whose,
        phase=phase,
        message=f"the {whose} did not survive",
        hint="write it otherwise",
        traceback="Traceback: line 1",
    )
    early = phase in (Phase.READ, Phase.BUILD, Phase.LOAD)
    broken = side(compiled=not early, runtime=None, fault=fault)
    whole = side(runtime=None)
    report = accepted(request, environment)
    return report.model_copy(
        update={
            "verdict": Verdict(kind.value) if whose == "candidate" else Verdict.REFERENCE_FAILED,
            "phase": phase,
            "fault": fault,
            "candidate": broken if whose == "candidate" else whole,
            "reference": (broken if whose == "reference" else whole)
            if isinstance(request, CompareRequest)
            else None,
            "checks": report.checks if phase is Phase.PROFILE else [],
            "speedup": None,
        }
    )


def partial(request: JobRequest, phase: Phase) -> JobReport:
    """A report of a job that has just entered a phase."""
    return accepted(request).model_copy(
        update={
            "verdict": Verdict.INTERNAL_ERROR,
            "phase": phase,
            "candidate": side(runtime=None),
            "checks": [],
            "speedup": None,
            "phase_seconds": {"read": 0.1},
        }
    )


@dataclass
class ScriptedEvaluator:
    """Judges as its `script` says, which may also raise.

    With `steps`, each phase is announced and then waits for one `step()`. A cancelled job lets go
    of its device when `lets_go` is set, as it is to begin with.
    """

    script: Callable[[JobRequest], JobReport] = accepted
    environment: Environment = field(default_factory=lambda: CPU)
    device_name: str = "cpu"
    device_names: tuple[str, ...] = ()
    """Where there are several devices; else `device_name`."""
    ready: bool = True
    unready: set[int] = field(default_factory=set)
    """Devices that are not ready though the others are; see `change`."""
    capacity: int = 8
    memory_bytes: int | None = None
    steps: tuple[Phase, ...] = ()
    requests: list[JobRequest] = field(default_factory=list)
    """All that it was given, in order."""
    judged: list[tuple[str, int]] = field(default_factory=list)
    """The job and the device of each."""
    cancelled: list[str] = field(default_factory=list)
    """The jobs that were taken from it."""
    running: int = 0
    lets_go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Starts without permission to go on."""
        self._permits = asyncio.Semaphore(0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on: Counter[int] = Counter()
        self._changed: list[Callable[[], None]] = []
        self.lets_go.set()

    def builders(self) -> dict[str, int]:
        return {"size": 1, "busy": 0, "waiting": 0}

    def devices(self) -> list[DeviceState]:
        """The devices."""
        return [
            DeviceState(
                index=index,
                name=name,
                ready=self.ready and index not in self.unready,
                environment=self.environment if self.ready else None,
                jobs=self._on[index],
                capacity=self.capacity,
                memory_bytes=self.memory_bytes,
            )
            for index, name in enumerate(self.device_names or (self.device_name,))
        ]

    def on_change(self, call: Callable[[], None]) -> None:
        """Has it called by `change`."""
        self._changed.append(call)

    def change(self, index: int, *, ready: bool) -> None:
        """Makes a device ready or unready, and tells."""
        (self.unready.discard if ready else self.unready.add)(index)
        for call in self._changed:
            call()

    def step(self, count: int = 1) -> None:
        """Lets that many jobs go on to their next phase; from any thread."""
        for _ in range(count):
            if self._loop is None:
                self._permits.release()
            else:
                self._loop.call_soon_threadsafe(self._permits.release)

    async def judge(
        self,
        job_id: str,
        request: JobRequest,
        progress: Callable[[JobReport], None],
        device: int,
    ) -> JobReport:
        """Announces the phases, then returns what the script says."""
        self._loop = asyncio.get_running_loop()
        self.requests.append(request)
        self.judged.append((job_id, device))
        self.running += 1
        self._on[device] += 1
        try:
            for phase in self.steps:
                progress(partial(request, phase))
                await self._permits.acquire()
            return self.script(request)
        except asyncio.CancelledError:
            await self.lets_go.wait()
            self.cancelled.append(job_id)
            raise
        finally:
            self.running -= 1
            self._on[device] -= 1
