"""The Python client of a KernelJudge server, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from kerneljudge.api import (
    CleanupResponse,
    CompareResponse,
    EvaluateResponse,
    HealthResponse,
    JobEventResponse,
    JobResponse,
    JobSummary,
    StatsResponse,
)
from kerneljudge.client.batches import Outcome, Report, run_batch
from kerneljudge.client.calls import Submittable
from kerneljudge.client.connection import http_options, request_options, server_url
from kerneljudge.client.decoding import Judged
from kerneljudge.client.operations import (
    CompareOptions,
    EvaluateOptions,
    JobFilters,
    Kernel,
    Operations,
    SubmitOptions,
)
from kerneljudge.client.progress import reporting
from kerneljudge.client.retries import Retries
from kerneljudge.client.steps import Emit, Open, Operation, Read, Send, Series, Sleep

__all__ = ["AsyncKernelJudgeClient"]

_Result = TypeVar("_Result")


class AsyncKernelJudgeClient:
    """`KernelJudgeClient` for asyncio: the same methods, to be awaited, or iterated with
    `async for`; an asynchronous context manager.

    One client may be used from several tasks at once.
    """

    def __init__(
        self,
        base_url: str | None = None,
        timeout: float = 120,
        *,
        queue_timeout: float = 600,
        api_key: str | None = None,
        client: str | None = None,
        retries: int = 10,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Takes what `KernelJudgeClient` takes; opens no connection yet."""
        self.base_url = server_url(base_url)
        """Where the server is."""
        self.timeout = timeout
        """Seconds that a job may take, unless it says otherwise."""
        self._operations = Operations(
            self.base_url, timeout=timeout, queue_timeout=queue_timeout, retries=Retries(retries)
        )
        self._http = httpx.AsyncClient(
            transport=transport, **http_options(self.base_url, api_key, client)
        )

    async def evaluate(
        self,
        kernel: Kernel,
        num_trials: int = 100,
        timeout: float | None = None,
        **options: Unpack[EvaluateOptions],
    ) -> EvaluateResponse:
        """Builds, runs and times one kernel; what is not given is left to the server's default."""
        return await self._run(self._operations.evaluate(kernel, num_trials, timeout, **options))

    async def compare(
        self,
        ref_kernel: Kernel,
        custom_kernel: Kernel,
        num_trials: int = 100,
        timeout: float | None = None,
        **options: Unpack[CompareOptions],
    ) -> CompareResponse:
        """Checks a candidate against a reference, and times both.

        What is not given is left to the server's default.
        """
        operation = self._operations.compare(
            ref_kernel, custom_kernel, num_trials, timeout, **options
        )
        return await self._run(operation)

    async def submit(self, request: Submittable, **options: Unpack[SubmitOptions]) -> JobResponse:
        """Submits an `EvaluateRequest`, a `CompareRequest` or a dict of the same fields, and does
        not wait for it: the job as it stands."""
        return await self._run(self._operations.submit(request, **options))

    async def wait(self, job_id: str, timeout: float | None = None) -> Judged:
        """Waits until a job has ended: its result.

        Raises `JobTimeout` where it has not after `timeout` seconds, and `JobError` where it ended
        without a verdict.
        """
        return await self._run(self._operations.wait(job_id, timeout))

    def stream(self, job_id: str) -> AsyncIterator[JobEventResponse | JobResponse]:
        """What happened to a job and what happens until it ends, as it does; at last the job."""
        return self._each(self._operations.stream(job_id))

    async def batch(
        self,
        requests: Sequence[Submittable],
        *,
        progress: bool | Report = False,
        parallel: int | None = None,
        priority: int | None = None,
        deadline: float | None = None,
    ) -> list[Outcome]:
        """Submits many requests, at most `parallel` at a time, and waits for all of them.

        Returns their results in order, with the exception in place of a result that did not come.
        `progress` draws a bar on standard error, or is called with a `BatchProgress` at each step.
        """
        with reporting(progress) as report:
            operation = run_batch(
                self._operations,
                requests,
                parallel=parallel,
                priority=priority,
                deadline=deadline,
                report=report,
            )
            return await self._run(operation)

    def jobs(
        self, limit: int | None = None, **filters: Unpack[JobFilters]
    ) -> AsyncIterator[JobSummary]:
        """The stored jobs that fit the filters, newest first, asked for page by page."""
        return self._each(self._operations.jobs(limit, filters))

    async def cancel(self, job_id: str) -> JobResponse:
        """Cancels a job, also one that runs. Raises `ConflictError` for one that has ended."""
        return await self._run(self._operations.cancel(job_id))

    async def get_job_status(self, job_id: str) -> JobResponse:
        """The state of a job, and its result once it has ended. Raises `NotFoundError` for an
        unknown id."""
        return await self._run(self._operations.job(job_id))

    async def get_stats(self) -> StatsResponse:
        """Counts and times since the server started."""
        return await self._run(self._operations.stats())

    async def health_check(self) -> HealthResponse:
        """The server's health and its devices. A server that takes no jobs is a `ServerError`."""
        return await self._run(self._operations.health())

    async def cleanup_jobs(self) -> CleanupResponse:
        """Drops the jobs that ended at least 300 seconds ago."""
        return await self._run(self._operations.cleanup())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        await self.close()

    async def _run(self, operation: Operation[_Result]) -> _Result:
        reply: Any = None
        while True:
            try:
                step = operation.send(reply)
            except StopIteration as end:
                result: _Result = end.value
                return result
            reply = await self._perform(step)

    async def _each(self, series: Series[_Result]) -> AsyncIterator[_Result]:
        async with contextlib.AsyncExitStack() as opened:
            body: AsyncIterator[bytes] | None = None
            reply: Any = None
            while True:
                try:
                    step = series.send(reply)
                except StopIteration:
                    return
                if isinstance(step, Emit):
                    yield step.value
                    reply = None
                    continue
                try:
                    if isinstance(step, Read):
                        assert body is not None, "read before it was opened"
                        reply = await anext(body, b"")
                    elif isinstance(step, Open):
                        await opened.aclose()
                        options = request_options(step.call, step.seconds)
                        reply = await opened.enter_async_context(self._http.stream(**options))
                        if not reply.is_success:
                            await reply.aread()
                        body = reply.aiter_bytes()
                    else:
                        reply = await self._perform(step)
                except httpx.RequestError as error:
                    reply = error

    async def _perform(self, step: Send | Sleep) -> httpx.Response | httpx.RequestError | None:
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.request(**request_options(step.call, step.seconds))
        except httpx.RequestError as error:
            return error
