"""Jobs, as the service keeps and shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from kerneljudge.schema import JobReport, JobRequest, KernelType, Phase, Side, Verdict

__all__ = [
    "ACTIVE",
    "ANONYMOUS",
    "FINISHED",
    "Job",
    "JobCounts",
    "JobEvent",
    "JobFilter",
    "JobKind",
    "JobPage",
    "JobState",
    "Lease",
    "QueuedJob",
    "Submission",
    "SubmittedKernel",
]

JobKind = Literal["evaluate", "compare"]

ANONYMOUS = "anonymous"
"""The client of jobs that no key and no name came with."""


class JobState(StrEnum):
    """Where a job stands, in order."""

    QUEUED = "queued"
    """Stored; waits for its turn. A job whose server or judge died is queued again."""
    SUBMITTED = "submitted"
    """Handed to a judge, which has not begun."""
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
    CANCELLED = "cancelled"
    """It was cancelled before it had a verdict."""

    @property
    def finished(self) -> bool:
        """Whether the job will not change any more."""
        return self in FINISHED


FINISHED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
"""The states that a job never leaves."""
ACTIVE = frozenset(JobState) - FINISHED - {JobState.QUEUED}
"""The states in which a server holds a job by a lease."""


@dataclass(frozen=True, slots=True)
class SubmittedKernel:
    """What a response repeats of a submitted kernel."""

    kernel_type: KernelType
    """How its source was read."""
    metadata: dict[str, Any]
    """Its metadata, the user's own keys included, as it was submitted."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A server's hold on a job. Whoever writes to a job names its lease; a lease that another has
    replaced writes nothing, so a job has one verdict."""

    server: str
    """The server that holds it."""
    token: str
    """Drawn anew for each lease: what distinguishes it from every other."""
    expires_at: float
    """Seconds since the epoch after which any server may take the job over, unless renewed."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A request with everything that a client says of it, ready to be accepted."""

    request: JobRequest
    """What is to be judged."""
    client: str = ANONYMOUS
    """Who gets the share of the devices: the key's id, or a name given without keys."""
    key_id: str | None = None
    """The API key; None where the server has none. Only this key sees the job."""
    priority: int = 0
    """Higher goes first, from -10 to 10."""
    deadline: float | None = None
    """Seconds from submission after which its result is of no use; None for the server's own."""
    idempotency_key: str | None = None
    """A second submission of the same client with the same key is the same job."""
    max_unfinished: int | None = None
    """Unfinished jobs that the API key may have, this one included; None for no bound."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job at one moment. Times are seconds since the epoch."""

    job_id: str
    """A UUID."""
    kind: JobKind
    """What was asked for."""
    kernels: Mapping[Side, SubmittedKernel]
    """The candidate (or sole kernel), and the reference of a comparison."""
    created_at: float
    """When it was submitted."""
    number: int = field(default=0, compare=False)
    """Its place in the order of submission, as `QueuedJob` has it; given by the store."""
    state: JobState = JobState.QUEUED
    """Where it stands."""
    client: str = ANONYMOUS
    """Whose share of the devices it takes."""
    key_id: str | None = None
    """The API key that it was submitted with."""
    priority: int = 0
    """Higher goes first."""
    deadline_at: float | None = None
    """When its result is of no use any more."""
    memory_bytes: int = 0
    """Device memory that its contracts' tensors take, as far as the request tells; 0 if unknown."""
    idempotency_key: str | None = None
    """What makes a second submission of it the same job."""
    attempts: int = 0
    """Times that a server has taken it up, without those that gave it back when they stopped."""
    lease: Lease | None = None
    """The hold on it, while a server works on it."""
    cancel_requested: bool = False
    """Whether it is to be cancelled as soon as its judge has let go of it."""
    started_at: float | None = None
    """When a judge took it up, the last time."""
    acquired_at: float | None = None
    """When it was given its device, after its builds."""
    finished_at: float | None = None
    """When it ended."""
    server: str | None = None
    """The server that judged it, or judges it."""
    device: int | None = None
    """Index of the device among that server's."""
    device_name: str | None = None
    """That device's name, such as `cuda:1`."""
    verdict: Verdict | None = None
    """The verdict of a finished job; None while it runs, and where it has none."""
    report: JobReport | None = None
    """The last report, partial while the job runs. Left out (None) by listings."""
    error: str | None = None
    """Why it failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What scheduling needs to know of a job that waits."""

    job_id: str
    """The job."""
    number: int
    """Its place in the order of submission; smaller came first."""
    client: str
    """Whose share it takes."""
    priority: int
    """Higher goes first."""
    memory_bytes: int
    """Device memory that it needs at least."""
    deadline_at: float | None
    """When its result is of no use any more, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job."""

    job_id: str
    """The job."""
    number: int
    """1 for its first event, and so on."""
    at: float
    """When, in seconds since the epoch."""
    state: JobState
    """The state that it then had."""
    phase: Phase | None = None
    """The phase that it entered, where a judge works on it."""
    message: str | None = None
    """What else there is to say, such as why it was queued again."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a listing has: those that fit every given field."""

    states: frozenset[JobState] | None = None
    """In one of these states."""
    kind: JobKind | None = None
    """Of this kind."""
    verdict: Verdict | None = None
    """With this verdict."""
    client: str | None = None
    """Of this client."""
    key_id: str | None = None
    """Submitted with this key."""
    created_after: float | None = None
    """Submitted at or after this time, in seconds since the epoch."""
    created_before: float | None = None
    """Submitted before this time."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a listing, newest first. The jobs have no `report`."""

    jobs: list[Job]
    """The jobs."""
    next_cursor: str | None
    """What asks for the next page; None on the last."""


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The stored jobs, counted."""

    total: int = 0
    """Stored jobs."""
    by_state: Mapping[JobState, int] = field(default_factory=dict)
    """How many are in each state; states without a job are left out."""
    average_age: float = 0.0
    """Mean seconds since submission; 0 without jobs."""
