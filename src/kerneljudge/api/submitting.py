"""The routes that submit jobs: POST /evaluate, /compare and /batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from fastapi import Depends, FastAPI, Request, Response

from kerneljudge.api.access import Access
from kerneljudge.api.bodies import Bodies, BodyError
from kerneljudge.api.examples import BATCH_EXAMPLES, COMPARE_EXAMPLES, EVALUATE_EXAMPLES
from kerneljudge.api.openapi import answers, request_body, submitting
from kerneljudge.api.parameters import Submitting, malformed
from kerneljudge.api.replies import Replies
from kerneljudge.api.responses import (
    BatchAcceptedResponse,
    BatchResponse,
    BatchResult,
    CompareResponse,
    EvaluateResponse,
)
from kerneljudge.api.waiting import ClientGone, end_of, unless_gone
from kerneljudge.schema import JobRequest
from kerneljudge.service import Caller, Job, JobService, Scope, Settings
from kerneljudge.service.logs import bind_job

__all__ = ["add_submitting"]

_GONE = "the client that waited for it went away"


def add_submitting(
    app: FastAPI, service: JobService, settings: Settings, access: Access, replies: Replies
) -> None:
    """Adds the routes."""
    bodies = Bodies(settings)
    may_submit = Depends(access.require(Scope.SUBMIT))
    as_told = Depends(Submitting.of)

    async def submit(
        caller: Caller, requests: Sequence[JobRequest], keys: Sequence[str | None], told: Submitting
    ) -> tuple[list[Job], dict[str, str]]:
        """The jobs, as they are stored, and the headers that say how they were taken."""
        if told.deadline is not None and told.deadline > (longest := settings.max_deadline):
            message = f"at most {longest:g} s here (KERNELJUDGE_MAX_DEADLINE)"
            raise BodyError(malformed("query -> deadline", message, "over_limit"))
        submissions = [
            access.submission(
                caller,
                request,
                priority=told.priority,
                deadline=told.deadline,
                idempotency_key=key,
            )
            for request, key in zip(requests, keys, strict=True)
        ]
        taken = await service.submit_all(submissions)
        headers = {}
        if told.preferred:
            headers["Preference-Applied"] = "respond-async"
        if not any(is_new for _, is_new in taken):
            headers["Idempotent-Replayed"] = "true"
        return [job for job, _ in taken], headers

    async def one(
        http: Request,
        caller: Caller,
        read: Callable[[Request], Awaitable[JobRequest]],
        told: Submitting,
    ) -> Response:
        # The request itself is not kept: a thousand clients that wait take no memory for bodies.
        (job,), headers = await submit(caller, [await read(http)], [told.idempotency_key], told)
        bind_job(job.job_id)
        if not told.waits:
            return replies.accepted(job, headers)
        (ended,) = await ends(http, [job])
        return replies.end(ended, headers)

    async def ends(http: Request, jobs: Sequence[Job]) -> list[Job]:
        waits = asyncio.gather(*(end_of(service, job.job_id) for job in jobs))
        try:
            return await unless_gone(http, waits)
        except ClientGone:
            # All at once: those that wait must not begin while one that runs is being ended.
            unwanted = [job.job_id for job in jobs if job.idempotency_key is None]
            await asyncio.gather(*(service.cancel(job_id, _GONE) for job_id in unwanted))
            raise

    @app.post(
        "/evaluate",
        summary="Evaluate one kernel",
        responses=submitting(EvaluateResponse),
        openapi_extra=request_body("EvaluateRequest", examples=EVALUATE_EXAMPLES),
        tags=["jobs"],
    )
    async def evaluate(
        request: Request, caller: Caller = may_submit, told: Submitting = as_told
    ) -> Response:
        """Builds, runs and times one kernel. `correctness` means that it ran without an error."""
        return await one(request, caller, bodies.evaluate, told)

    @app.post("/", include_in_schema=False)
    @app.post(
        "/compare",
        summary="Compare two kernels",
        responses=submitting(CompareResponse),
        openapi_extra=request_body(
            "CompareRequest", "LegacyCompareRequest", examples=COMPARE_EXAMPLES
        ),
        tags=["jobs"],
    )
    async def compare(
        request: Request, caller: Caller = may_submit, told: Submitting = as_told
    ) -> Response:
        """Checks a candidate against a reference, and times both."""
        return await one(request, caller, bodies.compare, told)

    @app.post(
        "/batch",
        summary="Evaluate and compare many kernels",
        responses={
            200: {"model": BatchResponse, "description": "Every job has ended"},
            202: {"model": BatchAcceptedResponse, "description": "Accepted; nobody waits"},
            **answers(400, 401, 403, 408, 409, 413, 415, 429, 500, 503),
        },
        openapi_extra=request_body("BatchRequest", examples=BATCH_EXAMPLES),
        tags=["jobs"],
    )
    async def batch(
        request: Request, caller: Caller = may_submit, told: Submitting = as_told
    ) -> Response:
        """Accepts all of the requests or none, and runs them in parallel.

        An `Idempotency-Key` counts for each request with its position.
        """
        requests = await bodies.batch(request)
        key = told.idempotency_key
        keys = [None if key is None else f"{key}#{position}" for position in range(len(requests))]
        jobs, headers = await submit(caller, requests, keys, told)
        del requests
        if not told.waits:
            accepted = BatchAcceptedResponse(jobs=[replies.described(job) for job in jobs])
            return replies.body(accepted, 202, headers)
        results = [
            BatchResult(status_code=replies.answers.status_code(job), body=replies.ended(job))
            for job in await ends(request, jobs)
        ]
        return replies.body(BatchResponse(results=results), headers=headers)
