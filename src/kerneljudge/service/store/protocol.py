"""What the service asks of its database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kerneljudge.schema import JobReport, JobRequest, Phase
from kerneljudge.service.access import ApiKey
from kerneljudge.service.records import (
    Job,
    JobCounts,
    JobEvent,
    JobFilter,
    JobPage,
    JobState,
    Lease,
    QueuedJob,
)

__all__ = ["JobStore", "KeyStore", "Renewal", "StoreLimits"]


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What holds while jobs are created, checked in the same transaction."""

    max_queued: int | None = None
    """Jobs that may wait, of all clients together."""
    max_unfinished_of_key: int | None = None
    """Unfinished jobs that the key of the new jobs may have."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of one lease when it was to be renewed."""

    held: bool
    """Whether the server still holds it. If not, whatever it does for the job is void."""
    cancel_requested: bool
    """Whether the job is to be cancelled."""


class JobStore(Protocol):
    """Keeps jobs. Every method is one transaction. What it has returned outlives every process;
    what a client is told, that a job is accepted, cancelled or ended, outlives a loss of power.

    Times are seconds since the epoch, by the clock of the server that calls. Any method raises
    `DatabaseUnusable` where the database does not answer.
    """

    @property
    def exclusive(self) -> bool:
        """Whether one server at a time has this database, so that leases that it finds when it
        starts are those of servers that have ended."""

    async def create(
        self, jobs: Sequence[tuple[Job, JobRequest]], limits: StoreLimits
    ) -> list[tuple[Job, bool]]:
        """Stores new jobs, all of them or none, each with its request.

        For each, in the same order: the job as it is stored, and whether it is new. One whose
        client and idempotency key are those of a stored job is not stored again: that job is
        returned, if its request is the same.

        Raises `QueueFull`, `QuotaExceeded` (for the new ones alone), and `IdempotencyConflict`
        where the stored job's request is another.
        """

    async def get(self, job_id: str) -> Job | None:
        """The job with its report, or None."""

    async def get_many(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Those of these jobs that exist, without reports."""

    async def request(self, job_id: str) -> JobRequest | None:
        """What was asked for, or None for an unknown job."""

    async def page(self, matching: JobFilter, limit: int, cursor: str | None = None) -> JobPage:
        """One page of the jobs that match, newest first. Raises ValueError for a cursor that is
        none."""

    async def queued(self, limit: int) -> list[QueuedJob]:
        """The jobs that wait, in the order of submission."""

    async def claim(self, job_id: str, lease: Lease, now: float) -> tuple[Job, JobRequest] | None:
        """Takes a queued job under a lease: its state is `submitted`, its attempts one more.

        None where the job is not queued any more, another server having taken it or its client
        cancelled it.
        """

    async def progress(
        self,
        job_id: str,
        token: str,
        state: JobState,
        report: JobReport,
        *,
        device: int | None,
        device_name: str | None,
        started_at: float | None,
        acquired_at: float | None,
        now: float,
        passed: Sequence[tuple[JobState, Phase, float]] = (),
    ) -> bool:
        """Keeps a partial report and the state; an event, where state or phase is new.

        `passed` are phases that the job went through before, since the last report that was
        kept, each with its state and when it began: an event each.

        False, and nothing kept, where the lease is not this one any more.
        """

    async def finish(
        self,
        job_id: str,
        token: str,
        state: JobState,
        report: JobReport | None,
        error: str | None,
        *,
        device: int | None,
        device_name: str | None,
        now: float,
    ) -> Job | None:
        """Ends a job, whose lease ends with it. `report` None keeps the last partial one.

        The job as it is then; None, and nothing kept, where the lease is not this one any more.
        """

    async def release(
        self, job_id: str, token: str, reason: str, now: float, *, attempted: bool = True
    ) -> bool:
        """Puts a job back into the queue, with its place in it; its partial report goes.

        Not `attempted` is one that a stopping server gives back: it counts as no attempt. A job
        that is to be cancelled is cancelled instead. False where the lease is not this one.
        """

    async def renew(self, leases: Mapping[str, str], expires_at: float) -> dict[str, Renewal]:
        """Extends the leases with these tokens, by job; what became of each."""

    async def cancel(self, job_id: str, reason: str, now: float) -> Job | None:
        """Cancels a queued job at once, and asks for the end of one that runs.

        The job as it is then, unchanged if it had ended; None for an unknown one.
        """

    async def recover(
        self, now: float, max_attempts: int, *, all_leases: bool = False
    ) -> list[Job]:
        """Takes over the jobs whose lease has expired, or all leased ones.

        Each is queued again, with an event that says why; or cancelled, where that was asked for;
        or failed, after `max_attempts`. Those that have ended so are returned with the rest.
        """

    async def end_overdue(self, now: float) -> list[Job]:
        """Fails the queued jobs whose deadline has passed; returns them."""

    async def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """The events of a job with a number above `after`, in order."""

    async def counts(self, key_id: str | None = None) -> JobCounts:
        """Counts the jobs; of one key, if given."""

    async def remove_finished(self, ended_before: float) -> int:
        """Drops the jobs that ended at or before this time; says how many."""

    async def check(self) -> None:
        """Raises `DatabaseUnusable` unless the database answers."""

    async def close(self) -> None:
        """Closes every connection."""


class KeyStore(Protocol):
    """Keeps API keys."""

    async def add_key(self, key: ApiKey) -> None:
        """Stores a new key. Raises ValueError for a name that an enabled key has."""

    async def find_key(self, digest: str) -> ApiKey | None:
        """The key of this digest, enabled or not, or None."""

    async def keys(self) -> list[ApiKey]:
        """Every key, oldest first."""

    async def disable_key(self, key_id: str, now: float) -> bool:
        """Makes a key useless from now on; False for an unknown one."""
