"""The tools' backend in the server's own process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import kerneljudge
from kerneljudge.api.access import Access
from kerneljudge.api.answers import Answers
from kerneljudge.api.limits import breaches, fitted
from kerneljudge.api.mcp.backend import NotTaken, Step
from kerneljudge.api.mcp.gpus import gpu_memory
from kerneljudge.api.mcp.results import ServerStats, gpu_info
from kerneljudge.api.responses import JobResponse, JobStats
from kerneljudge.schema import JobRequest
from kerneljudge.service import DeviceState, JobService, Settings
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.errors import QueueFull, ServiceError
from kerneljudge.service.records import Job

__all__ = ["LocalBackend"]


@dataclass(frozen=True)
class LocalBackend:
    """The service of this process, as one caller may use it."""

    service: JobService
    """Keeps the jobs."""
    settings: Settings
    """The server's bounds and names."""
    access: Access
    """Makes submissions in the name of the caller."""
    caller: Caller
    """Who calls."""

    async def submit(self, request: JobRequest) -> str:
        """Accepts a job: its id."""
        self._require(Scope.SUBMIT)
        fit = fitted(request, self.settings)
        broken = [(breach.path, breach.message) for breach in breaches(fit, self.settings)]
        if broken:
            raise NotTaken("the request is beyond this server's limits", mistakes=broken)
        # A key may be held below the usual priority.
        priority = min(0, self.caller.max_priority)
        submission = self.access.submission(self.caller, fit, priority=priority)
        with _told():
            job = await self.service.submit(submission)
        return job.job_id

    async def steps(self, job_id: str) -> AsyncIterator[Step]:
        """What happened to a job and happens to it."""
        with _told():
            async for event in self.service.events(job_id):
                yield Step(event.state.value, event.phase, event.message)

    async def ended(self, job_id: str) -> JobResponse:
        """A job of the caller's, once it has ended."""
        with _told():
            return self._response(await self.service.wait(job_id))

    async def job(self, job_id: str) -> JobResponse | None:
        """A job as it stands; None where the caller sees no such job."""
        self._require(Scope.READ)
        with _told():
            job = await self.service.get(job_id)
        if job is None or self.caller.sees not in (None, job.key_id):
            return None
        return self._response(job)

    async def cancel(self, job_id: str) -> None:
        """Ends a job that nobody waits for any more."""
        # A server that stops leaves its jobs to the next one.
        if not self.service.draining:
            with _told():
                await self.service.cancel(job_id, "the tool call that waited for it was cancelled")

    async def stats(self) -> ServerStats:
        """The server's health, its GPUs and its jobs."""
        self._require(Scope.READ)
        devices = self.service.devices()
        ready = any(device.ready for device in devices)
        with _told():
            counted = await self.service.job_stats(self.caller.sees)
        totals = {device.name: device.memory_bytes for device in devices}
        gpus = gpu_info(devices, await asyncio.to_thread(gpu_memory), totals)
        return ServerStats(
            status="healthy" if ready else "unhealthy",
            error=None if ready else _unready(devices),
            gpu_available=any(gpu.ready for gpu in gpus),
            gpu_count=sum(gpu.ready for gpu in gpus),
            gpu_info=gpus,
            job_stats=JobStats.model_validate(counted),
            version=kerneljudge.__version__,
        )

    def _require(self, scope: Scope) -> None:
        if not self.caller.may(scope):
            raise NotTaken(f"this takes an API key with the scope {scope}, which yours has not")

    def _response(self, job: Job) -> JobResponse:
        devices = self.service.devices()
        device = next((device for device in devices if device.index == job.device), None)
        return Answers(self.settings).job(job, device)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tells the service's exceptions to the caller of a tool."""
    try:
        yield
    except QueueFull as error:
        raise NotTaken(str(error), retry_after=error.retry_after) from error
    except ServiceError as error:
        raise NotTaken(str(error)) from error


def _unready(devices: list[DeviceState]) -> str:
    if not devices:
        return "no device is configured"
    told = (f"{device.name} {device.reason or device.health.value}" for device in devices)
    return f"no device takes jobs: {'; '.join(told)}"
