"""The tools' backend in another process: a server that is asked over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

from kerneljudge.api import HealthResponse, JobEventResponse, JobResponse
from kerneljudge.api.mcp import NotTaken, Step
from kerneljudge.api.mcp.results import GpuMemory, ServerStats, gpu_info
from kerneljudge.client import (
    AsyncKernelJudgeClient,
    KernelJudgeError,
    NotFoundError,
    RateLimited,
    RequestError,
    ServerError,
)
from kerneljudge.schema import JobRequest

__all__ = ["Memory", "RemoteBackend"]

Memory = Callable[[], Awaitable[Mapping[int, GpuMemory] | str]]
"""The memory of the server's GPUs by number, or why it is not known."""


class RemoteBackend:
    """A server behind HTTP."""

    def __init__(
        self, url: Callable[[], Awaitable[str]], api_key: str | None, memory: Memory
    ) -> None:
        """`url` tells where the server is, once it has started. Opens no connection yet."""
        self._url = url
        self._api_key = api_key
        self._memory = memory
        self._connected: AsyncKernelJudgeClient | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._connected is not None:
            await self._connected.close()

    async def submit(self, request: JobRequest) -> str:
        """Accepts a job: its id."""
        with _told():
            job = await (await self._client()).submit(request)
        return job.job_id

    async def steps(self, job_id: str) -> AsyncIterator[Step]:
        """What happened to a job and happens to it."""
        with _told():
            async for event in (await self._client()).stream(job_id):
                if isinstance(event, JobEventResponse):
                    yield Step(event.status, event.phase, event.message)

    async def ended(self, job_id: str) -> JobResponse:
        """A job of the caller's, once it has ended."""
        with _told():
            return await (await self._client()).get_job_status(job_id)

    async def job(self, job_id: str) -> JobResponse | None:
        """A job as it stands; None where the server shows no such job."""
        with _told():
            try:
                return await (await self._client()).get_job_status(job_id)
            except NotFoundError:
                return None

    async def cancel(self, job_id: str) -> None:
        """Ends a job that nobody waits for any more."""
        with _told():
            await (await self._client()).cancel(job_id)

    async def stats(self) -> ServerStats:
        """The server's health, its GPUs and its jobs."""
        with _told():
            health = await self._health()
        gpus = gpu_info(health.devices, await self._memory())
        return ServerStats(
            status=health.status,
            error=health.error,
            gpu_available=health.gpu_available,
            gpu_count=health.gpu_count,
            gpu_info=gpus,
            job_stats=health.job_stats,
            version=health.version,
        )

    async def _client(self) -> AsyncKernelJudgeClient:
        url = await self._url()
        if self._connected is None:
            self._connected = AsyncKernelJudgeClient(url, api_key=self._api_key)
        return self._connected

    async def _health(self) -> HealthResponse:
        try:
            return await (await self._client()).health_check()
        except ServerError as error:
            # A server that takes no jobs still tells of its devices.
            if isinstance(error.body, dict) and error.body.get("status") == "unhealthy":
                return HealthResponse.model_validate(error.body)
            raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tells the client's exceptions to the caller of a tool."""
    try:
        yield
    except RateLimited as error:
        raise NotTaken(str(error), retry_after=error.retry_after) from error
    except RequestError as error:
        # Fields begin with `body`, which the arguments of a tool have not.
        mistakes = [
            (issue.field.split(" -> ")[1:], issue.message) for issue in error.validation_errors
        ]
        raise NotTaken(str(error), mistakes=[one for one in mistakes if one[0]]) from error
    except KernelJudgeError as error:
        raise NotTaken(str(error)) from error
