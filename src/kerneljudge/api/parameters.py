"""What a client says beside the body: query parameters and headers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Header, HTTPException, Query

from kerneljudge.api.responses import InvalidRequestResponse, ValidationIssue
from kerneljudge.schema import Verdict
from kerneljudge.service import JobState

__all__ = [
    "MAX_WAIT",
    "Cursor",
    "JobClient",
    "JobKinds",
    "JobStates",
    "JobVerdict",
    "LastEventId",
    "PageSize",
    "Submitting",
    "Time",
    "Wait",
    "known_id",
    "malformed",
    "no_job",
]

MAX_WAIT = 60.0
"""Longest wait of a GET /job/{job_id} in seconds."""

_VISIBLE = r"^[\x21-\x7e]+$"

Wait = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT, description="Seconds to wait for the end of the job"),
]
LastEventId = Annotated[
    int,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=2**31 - 1,
        description="Id of the last event that was received: the stream goes on after it",
    ),
]
JobStates = Annotated[
    list[JobState] | None,
    Query(alias="status", description="Jobs in this state; give it again for another"),
]
JobKinds = Annotated[Literal["evaluate", "compare"] | None, Query(description="Jobs of this kind")]
JobVerdict = Annotated[Verdict | None, Query(description="Jobs with this verdict")]
JobClient = Annotated[
    str | None,
    Query(min_length=1, max_length=100, pattern=r"^[^\x00]+$", description="Jobs of this client"),
]
Time = Annotated[float | None, Query(description="Seconds since the epoch", allow_inf_nan=False)]
PageSize = Annotated[int, Query(ge=1, le=500, description="Most jobs of a page")]
Cursor = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=200,
        pattern=_VISIBLE,
        description="The `next_cursor` of the page before",
    ),
]


@dataclass(frozen=True)
class Submitting:
    """How a job is to be submitted."""

    waits: bool
    """Whether the answer comes when the job has ended."""
    preferred: bool
    """Whether `Prefer: respond-async` decided that it does not."""
    priority: int
    """Higher goes first."""
    deadline: float | None
    """Seconds from submission."""
    idempotency_key: str | None
    """What makes a second submission the same job."""

    @classmethod
    async def of(
        cls,
        wait: Annotated[
            bool | None,
            Query(description="`false`: answer 202 at once, without waiting for the end"),
        ] = None,
        priority: Annotated[
            int, Query(ge=-10, le=10, description="Jobs of higher priority go first")
        ] = 0,
        deadline: Annotated[
            float | None,
            Query(
                gt=0,
                allow_inf_nan=False,
                description="Seconds from submission after which the result is of no use",
            ),
        ] = None,
        prefer: Annotated[
            str | None, Header(alias="Prefer", description="`respond-async` is as `wait=false`")
        ] = None,
        idempotency_key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                min_length=1,
                max_length=255,
                pattern=_VISIBLE,
                description="Makes a second submission with the same key the same job",
            ),
        ] = None,
    ) -> Submitting:
        """From the request's query and headers; a dependency."""
        asynchronous = any(
            preference.split(";")[0].strip().lower() == "respond-async"
            for preference in (prefer or "").split(",")
        )
        preferred = wait is None and asynchronous
        return cls(
            waits=not preferred if wait is None else wait,
            preferred=preferred,
            priority=priority,
            deadline=deadline,
            idempotency_key=idempotency_key,
        )


def known_id(job_id: str) -> str:
    """The id of a job as it is stored. Raises 404 for what can be none."""
    try:
        return str(uuid.UUID(job_id))
    except ValueError:
        raise no_job(job_id) from None


def no_job(job_id: str) -> HTTPException:
    """What an unknown job is answered with."""
    return HTTPException(
        404,
        f"there is no job {job_id[:100]!r}: it was never submitted here, or ended so long ago "
        "that it was dropped",
    )


def malformed(field: str, message: str, kind: str = "value_error") -> InvalidRequestResponse:
    """What a parameter with a wrong value is answered with."""
    issue = ValidationIssue(field=field, message=message, type=kind)
    return InvalidRequestResponse(validation_errors=[issue])
