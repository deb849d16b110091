"""Counts and times of a server, taken from the reports of its jobs.

Every number is added in the server's own process, from the report that a judge handed over, so
none of them depends on counters of processes that come and go.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from kerneljudge.schema import JobReport, Phase, SideReport, Verdict
from kerneljudge.service.evaluator import DeviceState
from kerneljudge.service.records import Job, JobState

__all__ = ["ON_DEVICE", "RECENT_SECONDS", "Metrics", "Times", "device_seconds"]

RECENT_SECONDS = 300.0
"""Length of the window of the recent throughput."""

ON_DEVICE = (Phase.LOAD, Phase.CHECK, Phase.PROFILE)
"""The phases during which a job holds its device; a build holds none."""

# Clients whose waits are kept apart: the last to have waited. Names without a key are anybody's to
# make up.
_MOST_CLIENTS = 1000

_COMPILATION = (Phase.READ, Phase.BUILD, Phase.LOAD)


# Seconds that divide what is timed into the buckets of a histogram.
_BOUNDS: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 25, 50, 100, 250, 600, math.inf),
)


@dataclass
class Times:
    """Seconds of something that happens again and again."""

    count: int = 0
    """How often it happened."""
    total: float = 0.0
    """The seconds of all together."""
    minimum: float = math.inf
    """The shortest; infinite before the first."""
    maximum: float = 0.0
    """The longest."""
    _buckets: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))

    def add(self, seconds: float) -> None:
        """It happened once more."""
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self.count += 1
        self.total += seconds
        self.minimum = min(self.minimum, seconds)
        self.maximum = max(self.maximum, seconds)

    def named(self, name: str) -> dict[str, float]:
        """`average_<name>_seconds`, `min_…` and `max_…`; zeros before the first."""
        return {
            f"average_{name}_seconds": self.total / self.count if self.count else 0.0,
            f"min_{name}_seconds": self.minimum if self.count else 0.0,
            f"max_{name}_seconds": self.maximum,
        }

    def histogram(self) -> list[tuple[float, int]]:
        """For each of some bounds, the last infinite: how often it took no longer."""
        return list(zip(_BOUNDS, accumulate(self._buckets), strict=True))


@dataclass
class _Outcomes:
    """Successes and failures of something."""

    successful: int = 0
    failed: int = 0

    def add(self, success: bool) -> None:
        if success:
            self.successful += 1
        else:
            self.failed += 1

    @property
    def total(self) -> int:
        return self.successful + self.failed

    @property
    def rate(self) -> float:
        return self.successful / self.total if self.total else 0.0


def device_seconds(report: JobReport) -> float:
    """How long a job used its device, as far as its report tells."""
    return sum(report.phase_seconds.get(phase, 0.0) for phase in ON_DEVICE)


class Metrics:
    """Adds up what the jobs of this process did, since it was made."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Starts at zero. `clock` gives seconds since the epoch."""
        self._clock = clock
        self._since = clock()
        self._submitted = 0
        self._acquired = 0
        self._released = 0
        self._requests = _Outcomes()
        self._cancelled = 0
        self._requeued = 0
        self._resumed = 0
        self._verdicts: Counter[Verdict] = Counter()
        self.end_to_end = Times()
        """Seconds from submission to the end, of the jobs that were not cancelled."""
        self._recent: deque[float] = deque()
        self.waits = Times()
        """Seconds that jobs waited for their device, without their own first phases."""
        self.phases: defaultdict[str, Times] = defaultdict(Times)
        """Seconds of each phase."""
        self._client_waits: OrderedDict[str, Times] = OrderedDict()
        self._compilations = _Outcomes()
        self._compile_times = Times()
        self._cache = _Outcomes()
        self._profilings = _Outcomes()
        self._profile_times = Times()
        self._graphs = _Outcomes()
        self._correctness = _Outcomes()
        self._runtimes = Times()
        self._device_jobs: Counter[int] = Counter()
        self._device_seconds: defaultdict[int, float] = defaultdict(float)
        self._profile_seconds: defaultdict[int, float] = defaultdict(float)

    def submitted(self) -> None:
        """A job was accepted."""
        self._submitted += 1

    def resumed(self) -> None:
        """A job that had been begun before was taken up again."""
        self._resumed += 1

    def requeued(self) -> None:
        """A job that had been begun was put back into the queue."""
        self._requeued += 1

    def acquired(self, job: Job) -> None:
        """The job was given its device. What it waited is the time since its submission, without
        that of its own first phases."""
        self._acquired += 1
        worked = 0.0
        if job.report is not None:
            seconds = job.report.phase_seconds
            worked = seconds.get(Phase.READ, 0.0) + seconds.get(Phase.BUILD, 0.0)
        acquired_at = job.acquired_at if job.acquired_at is not None else self._clock()
        waited = max(acquired_at - job.created_at - worked, 0.0)
        self.waits.add(waited)
        self._client_waits.setdefault(job.client, Times()).add(waited)
        self._client_waits.move_to_end(job.client)
        if len(self._client_waits) > _MOST_CLIENTS:
            self._client_waits.popitem(last=False)

    def released(self, device: int, seconds: float) -> None:
        """A job let go of its device, after using it for so long."""
        self._released += 1
        self._device_jobs[device] += 1
        self._device_seconds[device] += seconds

    def finished(self, job: Job) -> None:
        """The job ended; it is in its final state."""
        now = self._clock()
        if job.state is JobState.CANCELLED:
            self._cancelled += 1
            return
        self._requests.add(job.state is JobState.COMPLETED)
        self._recent.append(now)
        self._forget(now)
        # The clock of the server that took it may be ahead of this one's.
        self.end_to_end.add(max(now - job.created_at, 0.0))
        if job.report is not None:
            for phase, seconds in job.report.phase_seconds.items():
                self.phases[phase].add(seconds)
            self._add(job.report, job.device)

    @property
    def recent_rate(self) -> float:
        """Jobs a second that ended of late; those that were cancelled do not count."""
        now = self._clock()
        self._forget(now)
        # A server younger than the window is measured over its own age.
        window = min(max(now - self._since, 0.0), RECENT_SECONDS)
        return len(self._recent) / window if window else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0] <= now - RECENT_SECONDS:
            self._recent.popleft()

    def _add(self, report: JobReport, device: int | None) -> None:
        self._verdicts[report.verdict] += 1
        sides = [side for side in (report.reference, report.candidate) if side is not None]
        for side in sides:
            self._add_compilation(side)
        self._add_profiling(report, sides)
        fault = report.fault
        if report.checks or (fault is not None and fault.phase is Phase.CHECK):
            failed = fault is not None and fault.phase is Phase.CHECK
            self._correctness.add(not failed and all(check.passed for check in report.checks))
        if device is not None:
            self._profile_seconds[device] += report.phase_seconds.get(Phase.PROFILE, 0.0)

    def _add_compilation(self, side: SideReport) -> None:
        failed = side.fault is not None and side.fault.phase in _COMPILATION
        if not side.compiled and not failed:
            return  # never tried, or cut off before it was known
        self._compilations.add(side.compiled)
        if side.build is not None and side.build.way != "none":
            self._compile_times.add(side.build.seconds)
            self._cache.add(side.build.cached)

    def _add_profiling(self, report: JobReport, sides: Sequence[SideReport]) -> None:
        profiled = all(side.runtime is not None for side in sides)
        failed = report.fault is not None and report.fault.phase is Phase.PROFILE
        if not profiled and not failed:
            return
        self._profilings.add(profiled and not failed)
        self._profile_times.add(report.phase_seconds.get(Phase.PROFILE, 0.0))
        if report.candidate.runtime is not None:
            self._runtimes.add(report.candidate.runtime.mean / 1000)
        for side in sides:
            if side.clock is not None and side.clock.name != "monotonic":
                self._graphs.add(side.clock.name == "cuda_graph")

    def as_dict(self, devices: Iterable[DeviceState], unfinished: int) -> dict[str, Any]:
        """The groups of `/stats` except `job_stats`, which the store knows. `unfinished` is how
        many jobs wait or run now.

        Seconds unless a name says otherwise; rates from 0 to 1, and 0 before the first event.
        """
        now = self._clock()
        uptime = max(now - self._since, 0.0)
        minutes = uptime / 60
        names = {device.index: device.name for device in devices}
        by_device = {
            name: {
                "jobs": self._device_jobs[index],
                "busy_seconds": self._device_seconds[index],
                "utilization_pct": _percent(self._device_seconds[index], uptime),
            }
            for index, name in names.items()
        }
        busy = sum(self._device_seconds.values())
        return {
            "timestamp": now,
            "compilation_metrics": {
                "total_compilations": self._compilations.total,
                "successful_compilations": self._compilations.successful,
                "failed_compilations": self._compilations.failed,
                "success_rate": self._compilations.rate,
                "total_time_seconds": self._compile_times.total,
                **self._compile_times.named("time"),
                "cache_hits": self._cache.successful,
                "cache_misses": self._cache.failed,
                "cache_hit_rate": self._cache.rate,
            },
            "profiling_metrics": {
                "total_profilings": self._profilings.total,
                "successful_profilings": self._profilings.successful,
                "failed_profilings": self._profilings.failed,
                "success_rate": self._profilings.rate,
                "total_time_seconds": self._profile_times.total,
                **self._profile_times.named("time"),
                "correctness_passed": self._correctness.successful,
                "correctness_failed": self._correctness.failed,
                "correctness_rate": self._correctness.rate,
                "graph_captures": self._graphs.successful,
                "graph_fallbacks": self._graphs.failed,
                "graph_capture_rate": self._graphs.rate,
                "gpu_usage_times": {
                    name: self._profile_seconds[index] for index, name in names.items()
                },
            },
            "gpu_utilization": {
                "gpu_acquisitions": self._acquired,
                "gpu_releases": self._released,
                "active_sessions": self._acquired - self._released,
                "total_gpu_time_seconds": busy,
                "total_wait_time_seconds": self.waits.total,
                **self.waits.named("wait_time"),
                "utilization_by_gpu": by_device,
                "wait_time_by_client": {
                    client: {"jobs": waits.count, **waits.named("wait_time")}
                    for client, waits in self._client_waits.items()
                },
            },
            "throughput": {
                "server_uptime_seconds": uptime,
                "server_uptime_minutes": minutes,
                "total_requests": self._submitted,
                "completed_requests": self._requests.successful,
                "failed_requests": self._requests.failed,
                "cancelled_requests": self._cancelled,
                "requeued_requests": self._requeued,
                "resumed_requests": self._resumed,
                "active_requests": unfinished,
                "success_rate": self._requests.rate,
                "requests_per_minute": self._submitted / minutes if minutes else 0.0,
                "requests_per_second": self._submitted / uptime if uptime else 0.0,
                "recent_throughput_per_minute": 60 * self.recent_rate,
                **self.end_to_end.named("end_to_end_time"),
            },
            "verdicts": {
                verdict.value: self._verdicts[verdict]
                for verdict in Verdict
                if self._verdicts[verdict]
            },
            "jobs_completed": self._requests.successful,
            "jobs_failed": self._requests.failed,
            "avg_runtime_ms": 1000 * self._runtimes.total / self._runtimes.count
            if self._runtimes.count
            else 0.0,
            "gpu_utilization_pct": _percent(busy, uptime * len(names)),
            "uptime_seconds": uptime,
        }


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
