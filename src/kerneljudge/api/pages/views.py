"""What the templates show, worked out of jobs, devices and statistics."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from kerneljudge.api.pages.highlight import highlight
from kerneljudge.api.pages.words import PHASES, Outcome, outcome_of
from kerneljudge.contract import IOContract
from kerneljudge.schema import (
    CompareRequest,
    JobReport,
    JobRequest,
    KernelCode,
    Phase,
    Side,
    SideReport,
)
from kerneljudge.service import JobService
from kerneljudge.service.records import Job

__all__ = [
    "Row",
    "Segment",
    "SideView",
    "Summaries",
    "Timeline",
    "samples",
    "says_something",
    "sides",
    "timeline",
]

_KEPT_SUMMARIES: Final = 2000
_MIN_GAP: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One job in a listing."""

    job: Job
    """The job, without its report."""
    outcome: Outcome
    """How it stands."""
    runtime_ms: float | None
    """Mean time of the candidate."""
    speedup: float | None
    """The reference's time over it."""


class Summaries:
    """The numbers of ended jobs that a listing shows and does not carry.

    An ended job does not change, so each is read once while it is among the last shown.
    """

    def __init__(self, service: JobService) -> None:
        """Reads the jobs of a service."""
        self._service = service
        self._known: OrderedDict[str, tuple[float | None, float | None]] = OrderedDict()

    async def rows(self, jobs: list[Job]) -> list[Row]:
        """The jobs as a listing shows them."""
        return [Row(job, outcome_of(job), *await self._numbers(job)) for job in jobs]

    async def _numbers(self, job: Job) -> tuple[float | None, float | None]:
        if not job.state.finished:
            return None, None
        if job.job_id not in self._known:
            whole = await self._service.get(job.job_id)
            report = whole.report if whole is not None else None
            runtime = report.candidate.runtime if report is not None else None
            self._known[job.job_id] = (
                runtime.mean if runtime is not None else None,
                report.speedup if report is not None else None,
            )
            if len(self._known) > _KEPT_SUMMARIES:
                self._known.popitem(last=False)
        return self._known[job.job_id]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a job's time."""

    name: str
    """What happened."""
    kind: str
    """A class of the stylesheet."""
    seconds: float
    """How long."""
    start: float
    """Seconds since submission at which it is drawn."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A job's time, from submission to its end or to now."""

    segments: list[Segment]
    """One after the other."""
    total: float
    """Seconds in all."""


def timeline(job: Job, now: float) -> Timeline:
    """What a job's time went into: waiting, and the phases."""
    end = job.finished_at if job.finished_at is not None else now
    total = max(end - job.created_at, 0.0)
    started = job.started_at if job.started_at is not None else end
    spent = job.report.phase_seconds if job.report is not None else {}
    parts = [("Wait in queue", "wait", max(started - job.created_at, 0.0))]
    before = sum(spent.get(phase, 0.0) for phase in (Phase.READ, Phase.BUILD))
    for phase, name in PHASES.items():
        if phase is Phase.LOAD and job.acquired_at is not None:
            # Between the end of its builds and its device.
            gap = job.acquired_at - started - before
            if gap > _MIN_GAP:
                parts.append(("Wait for the device", "wait", gap))
        if phase in spent:
            parts.append((name, phase.value, spent[phase]))
    segments = []
    at = 0.0
    for name, kind, seconds in parts:
        segments.append(Segment(name, kind, seconds, at))
        at += seconds
    return Timeline(segments, max(total, at))


@dataclass(frozen=True, slots=True)
class SideView:
    """One kernel of a job."""

    side: Side
    """Which."""
    title: str
    """What it is called here."""
    kernel: KernelCode
    """What was submitted."""
    report: SideReport | None
    """What is known of it."""
    lines: list[str]
    """Its source as HTML, escaped."""
    whole: bool
    """Whether these lines are all of it."""

    @property
    def contract(self) -> IOContract | None:
        """What it takes and returns, if it says so."""
        return self.kernel.io


def sides(job: Job, request: JobRequest) -> list[SideView]:
    """The kernels of a job, the reference first. Takes a while for a long source."""
    report = job.report
    if isinstance(request, CompareRequest):
        return [
            _side("reference", "Reference", request.ref_kernel, report),
            _side("candidate", "Candidate", request.custom_kernel, report),
        ]
    return [_side("candidate", "Kernel", request.kernel, report)]


def _side(side: Side, title: str, kernel: KernelCode, report: JobReport | None) -> SideView:
    found = None if report is None else getattr(report, side)
    return SideView(side, title, kernel, found, *highlight(kernel.source_code, kernel.kernel_type))


def says_something(report: SideReport) -> bool:
    """Whether there is anything to tell of how a kernel was built, launched, or of its output."""
    built = report.build is not None and (report.build.way != "none" or report.build.reason)
    return bool(built or report.notes or report.stdout.strip())


def samples(views: list[SideView]) -> list[dict[str, Any]]:
    """What the plot is made of: the name and the samples of each kernel that was timed."""
    return [
        {"name": view.title, "samples": view.report.samples_ms}
        for view in views
        if view.report is not None and view.report.samples_ms
    ]
