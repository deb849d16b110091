"""The routes of jobs that were submitted: one, its events, all of them, and its end."""

from __future__ import annotations

import asyncio

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from kerneljudge.api.access import Access
from kerneljudge.api.bodies import BodyError
from kerneljudge.api.events import event_stream
from kerneljudge.api.openapi import answers
from kerneljudge.api.parameters import (
    Cursor,
    JobClient,
    JobKinds,
    JobStates,
    JobVerdict,
    LastEventId,
    PageSize,
    Time,
    Wait,
    known_id,
    malformed,
    no_job,
)
from kerneljudge.api.replies import NO_CACHE, Replies
from kerneljudge.api.responses import JobListResponse, JobResponse
from kerneljudge.api.waiting import end_of, unless_gone
from kerneljudge.service import Job, JobService, JobState
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.records import JobFilter

__all__ = ["add_jobs"]

_CANCEL_SECONDS = 10.0
"""How long a DELETE waits for the judge to let go of the job."""
_CANCELLED = "it was cancelled by its client"


def add_jobs(app: FastAPI, service: JobService, access: Access, replies: Replies) -> None:
    """Adds the routes."""
    may_read = Depends(access.require(Scope.READ))
    may_submit = Depends(access.require(Scope.SUBMIT))

    async def visible(job_id: str, caller: Caller) -> Job:
        job = await service.get(known_id(job_id))
        if job is None or caller.sees not in (None, job.key_id):
            raise no_job(job_id)
        return job

    @app.get(
        "/job/{job_id}",
        summary="One job",
        responses={200: {"model": JobResponse}, **answers(400, 401, 403, 404, 429, 500, 503)},
        tags=["jobs"],
    )
    async def job(
        request: Request, job_id: str, wait: Wait = 0, caller: Caller = may_read
    ) -> Response:
        """The state of a job, and its result once it has ended."""
        found = await visible(job_id, caller)
        if wait > 0 and not found.state.finished:
            found = await unless_gone(request, end_of(service, found.job_id, wait))
        return replies.job(found)

    @app.get(
        "/job/{job_id}/events",
        summary="What happens to a job",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Events `state`, and `end` when the job has ended",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **answers(400, 401, 403, 404, 429, 500, 503),
        },
        tags=["jobs"],
    )
    async def events(
        job_id: str, last_event_id: LastEventId = 0, caller: Caller = may_read
    ) -> Response:
        """Server-sent events: those that were, those that come, until the job has ended."""
        found = await visible(job_id, caller)
        return StreamingResponse(
            event_stream(service, replies, found.job_id, last_event_id),
            media_type="text/event-stream",
            # The last is for nginx, which else holds events back.
            headers={**NO_CACHE, "X-Accel-Buffering": "no"},
        )

    @app.get(
        "/jobs",
        summary="Many jobs",
        responses={200: {"model": JobListResponse}, **answers(400, 401, 403, 429, 500, 503)},
        tags=["jobs"],
    )
    async def jobs(
        status: JobStates = None,
        kind: JobKinds = None,
        verdict: JobVerdict = None,
        client: JobClient = None,
        created_after: Time = None,
        created_before: Time = None,
        limit: PageSize = 50,
        cursor: Cursor = None,
        caller: Caller = may_read,
    ) -> Response:
        """The jobs that match, newest first, a page at a time; without their results."""
        matching = JobFilter(
            states=frozenset(status) if status else None,
            kind=kind,
            verdict=verdict,
            client=client,
            key_id=caller.sees,
            created_after=created_after,
            created_before=created_before,
        )
        try:
            page = await service.page(matching, limit, cursor)
        except ValueError as error:
            raise BodyError(malformed("query -> cursor", str(error))) from None
        return replies.body(
            JobListResponse(
                jobs=[replies.answers.summary(job) for job in page.jobs],
                next_cursor=page.next_cursor,
            )
        )

    @app.delete(
        "/job/{job_id}",
        summary="Cancel a job",
        responses={
            200: {
                "model": JobResponse,
                "description": "It is cancelled, or will be as soon as its judge lets go of it",
            },
            **answers(400, 401, 403, 404, 409, 429, 500, 503),
        },
        tags=["jobs"],
    )
    async def cancel(job_id: str, caller: Caller = may_submit) -> Response:
        """Cancels a job, also while it runs, and frees its device."""
        found = await visible(job_id, caller)
        if not found.state.finished:
            try:
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await service.cancel(found.job_id, _CANCELLED)
                    found = await end_of(service, found.job_id)
            except TimeoutError:
                found = await visible(job_id, caller)
        if found.state in (JobState.COMPLETED, JobState.FAILED):
            raise HTTPException(409, f"job {found.job_id} has ended already: {found.state.value}")
        return replies.job(found)
