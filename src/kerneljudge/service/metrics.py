"""Counts and times of a server, taken from the reports of its jobs.

Every number is added in the server's own process, from the report that a judge handed over, so
none of them depends on counters of processes that come and go.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kerneljudge.schema import JobReport, Phase, SideReport, Verdict
from kerneljudge.service.evaluator import DeviceState
from kerneljudge.service.store import Job, JobState

__all__ = ["ON_DEVICE", "RECENT_SECONDS", "Metrics"]

RECENT_SECONDS = 300.0
"""Length of the window of the recent throughput."""

ON_DEVICE = (Phase.LOAD, Phase.CHECK, Phase.PROFILE)
"""The phases during which a job holds its device; a build holds none."""

_COMPILATION = (Phase.READ, Phase.BUILD, Phase.LOAD)


@dataclass
class _Times:
    """Seconds of something that happens again and again."""

    count: int = 0
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = 0.0

    def add(self, seconds: float) -> None:
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
        self._verdicts: Counter[Verdict] = Counter()
        self._end_to_end = _Times()
        self._recent: deque[float] = deque()
        self._waits = _Times()
        self._compilations = _Outcomes()
        self._compile_times = _Times()
        self._cache = _Outcomes()
        self._profilings = _Outcomes()
        self._profile_times = _Times()
        self._graphs = _Outcomes()
        self._correctness = _Outcomes()
        self._runtimes = _Times()
        self._device_jobs: Counter[int] = Counter()
        self._device_seconds: defaultdict[int, float] = defaultdict(float)
        self._profile_seconds: defaultdict[int, float] = defaultdict(float)

    def submitted(self) -> None:
        """A job was accepted."""
        self._submitted += 1

    def acquired(self, job: Job) -> None:
        """The job was given its device. What it waited is the time since its submission, without
        that of its own first phases."""
        self._acquired += 1
        worked = 0.0
        if job.report is not None:
            seconds = job.report.phase_seconds
            worked = seconds.get(Phase.READ, 0.0) + seconds.get(Phase.BUILD, 0.0)
        self._waits.add(max(self._clock() - job.created_at - worked, 0.0))

    def finished(self, job: Job) -> None:
        """The job ended; it is in its final state."""
        now = self._clock()
        self._requests.add(job.state is JobState.COMPLETED)
        self._recent.append(now)
        self._forget(now)
        self._end_to_end.add(now - job.created_at)
        if job.acquired_at is not None:
            self._released += 1
        if job.report is not None:
            self._add(job.report, job.device)

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
            seconds = report.phase_seconds
            self._device_jobs[device] += 1
            self._device_seconds[device] += sum(seconds.get(phase, 0.0) for phase in ON_DEVICE)
            self._profile_seconds[device] += seconds.get(Phase.PROFILE, 0.0)

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

    def as_dict(self, devices: Iterable[DeviceState]) -> dict[str, Any]:
        """The groups of `/stats` except `job_stats`, which the store knows.

        Seconds unless a name says otherwise; rates from 0 to 1, and 0 before the first event.
        """
        now = self._clock()
        self._forget(now)
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
        # A server younger than the window is measured over its own age.
        window = min(minutes, RECENT_SECONDS / 60)
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
                "total_wait_time_seconds": self._waits.total,
                **self._waits.named("wait_time"),
                "utilization_by_gpu": by_device,
            },
            "throughput": {
                "server_uptime_seconds": uptime,
                "server_uptime_minutes": minutes,
                "total_requests": self._submitted,
                "completed_requests": self._requests.successful,
                "failed_requests": self._requests.failed,
                "active_requests": self._submitted - self._requests.total,
                "success_rate": self._requests.rate,
                "requests_per_minute": self._submitted / minutes if minutes else 0.0,
                "requests_per_second": self._submitted / uptime if uptime else 0.0,
                "recent_throughput_per_minute": len(self._recent) / window if window else 0.0,
                **self._end_to_end.named("end_to_end_time"),
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
