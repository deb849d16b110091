"""Between records and rows: how jobs and events are read from rows, and new jobs become some."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kerneljudge.schema import JobRequest, Phase, Verdict
from kerneljudge.service.records import Job, JobEvent, JobFilter, JobState, Lease
from kerneljudge.service.store import codec
from kerneljudge.service.store.tables import jobs

__all__ = [
    "NewRows",
    "Row",
    "conditions",
    "cursor_after",
    "event_from",
    "job_from",
    "number_of",
]

Row = sa.Row[Any]


@dataclass(frozen=True, slots=True)
class NewRows:
    """A new job with its first row in each table."""

    job: Job
    """The job."""
    in_jobs: dict[str, Any]
    """Its own row."""
    in_requests: dict[str, Any]
    """That of its request."""
    in_events: dict[str, Any]
    """That of its first event."""

    @classmethod
    def of(cls, job: Job, request: JobRequest) -> NewRows:
        """The rows of a job that is to be created."""
        return cls(
            job,
            {
                "job_id": job.job_id,
                "kind": job.kind,
                "kernels": codec.pack_kernels(job.kernels),
                "created_at": job.created_at,
                "state": job.state,
                "client": job.client,
                "key_id": job.key_id,
                "priority": job.priority,
                "deadline_at": job.deadline_at,
                "memory_bytes": job.memory_bytes,
                "idempotency_key": job.idempotency_key,
                "attempts": job.attempts,
                "last_event": 1,
            },
            {
                "job_id": job.job_id,
                "digest": codec.digest_request(request),
                "content": codec.pack(request),
            },
            {"job_id": job.job_id, "number": 1, "at": job.created_at, "state": job.state},
        )


def job_from(row: Row, packed_report: bytes | None = None) -> Job:
    """The job of a row of `jobs`, with this report."""
    lease = None
    if row.lease_token is not None:
        lease = Lease(row.lease_server, row.lease_token, row.lease_expires_at)
    return Job(
        job_id=row.job_id,
        kind=row.kind,
        kernels=codec.unpack_kernels(row.kernels),
        created_at=row.created_at,
        number=row.number,
        state=JobState(row.state),
        client=row.client,
        key_id=row.key_id,
        priority=row.priority,
        deadline_at=row.deadline_at,
        memory_bytes=row.memory_bytes,
        idempotency_key=row.idempotency_key,
        attempts=row.attempts,
        lease=lease,
        cancel_requested=row.cancel_reason is not None,
        started_at=row.started_at,
        acquired_at=row.acquired_at,
        finished_at=row.finished_at,
        server=row.server,
        device=row.device,
        device_name=row.device_name,
        verdict=Verdict(row.verdict) if row.verdict is not None else None,
        report=codec.unpack_report(packed_report) if packed_report is not None else None,
        error=row.error,
    )


def event_from(row: Row) -> JobEvent:
    """The event of a row of `events`."""
    return JobEvent(
        job_id=row.job_id,
        number=row.number,
        at=row.at,
        state=JobState(row.state),
        phase=Phase(row.phase) if row.phase is not None else None,
        message=row.message,
    )


def conditions(matching: JobFilter) -> list[sa.ColumnElement[bool]]:
    """What a row of `jobs` must fulfil to match."""
    equal = {
        jobs.c.kind: matching.kind,
        jobs.c.verdict: matching.verdict,
        jobs.c.client: matching.client,
        jobs.c.key_id: matching.key_id,
    }
    found = [column == value for column, value in equal.items() if value is not None]
    if matching.states is not None:
        found.append(jobs.c.state.in_(matching.states))
    if matching.created_after is not None:
        found.append(jobs.c.created_at >= matching.created_after)
    if matching.created_before is not None:
        found.append(jobs.c.created_at < matching.created_before)
    return found


def cursor_after(number: int) -> str:
    """What asks for the jobs that were submitted before this one."""
    return base64.urlsafe_b64encode(b"%d" % number).decode().rstrip("=")


def number_of(cursor: str) -> int:
    """The number that the cursor was made of. Raises ValueError for what is no cursor."""
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        number = -1
    if not 0 < number < 2**63 or cursor_after(number) != cursor:
        raise ValueError(f"{cursor!r} is no cursor: give the next_cursor of the page before")
    return number
