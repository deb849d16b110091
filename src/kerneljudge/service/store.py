"""Jobs, and where they are kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from kerneljudge.schema import JobReport, KernelType, Side

__all__ = ["Job", "JobCounts", "JobState", "JobStore", "MemoryJobStore", "SubmittedKernel"]


class JobState(StrEnum):
    """Where a job stands, in order."""

    SUBMITTED = "submitted"
    """Accepted; waits for a device."""
    COMPILING = "compiling"
    """Its kernels are read, built and loaded."""
    VALIDATING = "validating"
    """Its correctness trials run."""
    PROFILING = "profiling"
    """Its kernels are timed."""
    COMPLETED = "completed"
    """It has a verdict."""
    FAILED = "failed"
    """It ran out of time, or the service failed; the HTTP status of the same job is 500."""

    @property
    def finished(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.COMPLETED, JobState.FAILED)


@dataclass(frozen=True, slots=True)
class SubmittedKernel:
    """What a response repeats of a submitted kernel. The source is not kept."""

    kernel_type: KernelType
    """How its source was read."""
    metadata: dict[str, Any]
    """Its metadata, the user's own keys included, as it was submitted."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job at one moment. Times are seconds since the epoch."""

    job_id: str
    """A UUID."""
    kind: Literal["evaluate", "compare"]
    """What was asked for."""
    kernels: Mapping[Side, SubmittedKernel]
    """The candidate (or sole kernel), and the reference of a comparison."""
    created_at: float
    """When it was submitted."""
    state: JobState = JobState.SUBMITTED
    """Where it stands."""
    started_at: float | None = None
    """When a judge took it up."""
    acquired_at: float | None = None
    """When it was given its device, after its builds."""
    finished_at: float | None = None
    """When it ended."""
    device: int | None = None
    """Index of the device that judged it."""
    report: JobReport | None = None
    """The last report, partial while the job runs."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True)
class JobCounts:
    """The stored jobs, counted."""

    total: int = 0
    """Stored jobs."""
    by_state: Mapping[JobState, int] = field(default_factory=dict)
    """How many are in each state; states without a job are left out."""
    average_age: float = 0.0
    """Mean seconds since submission; 0 without jobs."""


class JobStore(Protocol):
    """Keeps jobs. One writer a job: the service that runs it."""

    async def create(self, job: Job) -> None:
        """Stores a new job. Raises `ValueError` for an id that is taken."""

    async def get(self, job_id: str) -> Job | None:
        """The job of this id, or None."""

    async def update(self, job: Job) -> None:
        """Replaces the job of the same id. Raises `KeyError` for an unknown one."""

    async def counts(self) -> JobCounts:
        """Counts the jobs."""

    async def remove_finished(self, older_than: float) -> int:
        """Drops the jobs that ended at least `older_than` seconds ago; says how many."""


class MemoryJobStore:
    """A `JobStore` in this process's memory: the jobs go when it ends."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Starts empty. `clock` gives seconds since the epoch."""
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    async def create(self, job: Job) -> None:
        """Stores a new job. Raises `ValueError` for an id that is taken."""
        if job.job_id in self._jobs:
            raise ValueError(f"there is a job {job.job_id} already")
        self._jobs[job.job_id] = job

    async def get(self, job_id: str) -> Job | None:
        """The job of this id, or None."""
        return self._jobs.get(job_id)

    async def update(self, job: Job) -> None:
        """Replaces the job of the same id. Raises `KeyError` for an unknown one."""
        if job.job_id not in self._jobs:
            raise KeyError(job.job_id)
        self._jobs[job.job_id] = job

    async def counts(self) -> JobCounts:
        """Counts the jobs."""
        if not self._jobs:
            return JobCounts()
        now = self._clock()
        ages = [now - job.created_at for job in self._jobs.values()]
        states = Counter(job.state for job in self._jobs.values())
        return JobCounts(
            total=len(self._jobs),
            by_state={state: states[state] for state in JobState if states[state]},
            average_age=sum(ages) / len(ages),
        )

    async def remove_finished(self, older_than: float) -> int:
        """Drops the jobs that ended at least `older_than` seconds ago; says how many."""
        limit = self._clock() - older_than
        old = [
            job.job_id
            for job in self._jobs.values()
            if job.finished_at is not None and job.finished_at <= limit
        ]
        for job_id in old:
            del self._jobs[job_id]
        return len(old)
