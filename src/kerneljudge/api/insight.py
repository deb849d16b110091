"""The routes that tell how the server is: /health, /stats, and the cleanup by hand."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Depends, FastAPI, Response

import kerneljudge
from kerneljudge.api.access import Access
from kerneljudge.api.openapi import answers
from kerneljudge.api.replies import Replies
from kerneljudge.api.responses import (
    CleanupResponse,
    ConfinementLayer,
    DeviceHealth,
    GpuManager,
    HealthResponse,
    JobStats,
    LiveResponse,
    ReadyResponse,
    StatsResponse,
)
from kerneljudge.service import DeviceState, JobService
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.errors import DatabaseUnusable, Draining

__all__ = ["add_insight"]

_MAX_AGE: Final = 1.0
"""Seconds for which what the database said is taken for true, so that who asks for the health
again and again costs it nothing."""
_PATIENCE: Final = 2.0
"""Seconds after which a database that says nothing counts as unusable."""
_NOBODY: Final = ""
"""The id of no key."""
_NO_JOBS: Final[dict[str, Any]] = {"total_jobs": 0, "by_status": {}, "average_age": 0.0}


@dataclass(frozen=True)
class _Pulse:
    """What the database said, a moment ago."""

    job_stats: dict[str, Any]
    """The jobs, counted."""
    error: str | None
    """Why it is unusable."""


class _Database:
    """Asks the database at most once in `_MAX_AGE` for each key, whoever asks how often."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._pulses: dict[str | None, tuple[float, asyncio.Task[_Pulse]]] = {}

    async def pulse(self, key_id: str | None) -> _Pulse:
        """What it said of the jobs of this key; of all jobs, for None."""
        now = time.monotonic()
        asked_at, asking = self._pulses.get(key_id, (-_MAX_AGE, None))
        if asking is None or (asking.done() and now - asked_at >= _MAX_AGE):
            asking = asyncio.create_task(self._ask(key_id))
            self._pulses[key_id] = (now, asking)
        # Shielded: others wait for the same answer.
        return await asyncio.shield(asking)

    async def _ask(self, key_id: str | None) -> _Pulse:
        try:
            async with asyncio.timeout(_PATIENCE):
                return _Pulse(await self._service.job_stats(key_id), None)
        except DatabaseUnusable as error:
            return _Pulse(_NO_JOBS, str(error))
        except TimeoutError:
            return _Pulse(_NO_JOBS, f"the database did not answer within {_PATIENCE:g} s")


def add_insight(app: FastAPI, service: JobService, access: Access, replies: Replies) -> None:
    """Adds the routes."""
    may_read = Depends(access.require(Scope.READ))
    may_administer = Depends(access.require(Scope.ADMIN))
    anyone = Depends(access.optional)
    database = _Database(service)

    @app.get(
        "/health",
        summary="Health of the server and its devices",
        responses={
            200: {"model": HealthResponse},
            500: {"model": HealthResponse, "description": "No jobs are taken, or none is judged"},
            **answers(401, 429),
        },
        tags=["server"],
    )
    async def health(caller: Caller | None = anyone) -> Response:
        """Whether jobs are taken; answers while jobs run. It takes no API key, and counts nobody's
        jobs without one."""
        pulse = await database.pulse(caller.sees if caller is not None else _NOBODY)
        body = _health(service.devices(), pulse, draining=service.draining)
        return replies.body(body, 200 if body.status == "healthy" else 500)

    @app.get(
        "/health/live",
        summary="Whether the server runs",
        responses={200: {"model": LiveResponse}},
        tags=["server"],
    )
    async def live() -> Response:
        """Answers as long as the process runs: for a probe that restarts it."""
        return replies.body(LiveResponse())

    @app.get(
        "/health/ready",
        summary="Whether the server takes jobs",
        responses={
            200: {"model": ReadyResponse},
            503: {"model": ReadyResponse, "description": "It takes none, or judges none"},
        },
        tags=["server"],
    )
    async def ready() -> Response:
        """For a probe that sends it requests."""
        error = await _unready(service)
        body = ReadyResponse(status="ready" if error is None else "unready", error=error)
        return replies.body(body, 200 if error is None else 503)

    @app.get(
        "/stats",
        summary="Counts and times since the server started",
        responses={200: {"model": StatsResponse}, **answers(401, 403, 429, 500, 503)},
        tags=["server"],
    )
    async def stats(caller: Caller = may_read) -> Response:
        """Jobs, compilations, profilings, devices, throughput."""
        told = StatsResponse.model_validate(await service.stats())
        if caller.sees is not None:
            told = await own(told, caller)
        return replies.body(told)

    async def own(told: StatsResponse, caller: Caller) -> StatsResponse:
        """Without what it says of other clients."""
        waits, shares = told.gpu_utilization.wait_time_by_client, told.queue.clients
        told.gpu_utilization.wait_time_by_client = {
            name: value for name, value in waits.items() if name == caller.client
        }
        told.queue.clients = {
            name: value for name, value in shares.items() if name == caller.client
        }
        told.job_stats = JobStats.model_validate(await service.job_stats(caller.sees))
        return told

    @app.post(
        "/admin/cleanup-jobs",
        summary="Drop old jobs",
        responses={200: {"model": CleanupResponse}, **answers(401, 403, 429, 500, 503)},
        tags=["server"],
    )
    async def cleanup_jobs(_caller: Caller = may_administer) -> Response:
        """Drops the jobs that ended at least 300 seconds ago."""
        return replies.body(CleanupResponse(removed_jobs=await service.cleanup()))


async def _unready(service: JobService) -> str | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            await service.check()
    except (DatabaseUnusable, Draining) as error:
        return str(error)
    except TimeoutError:
        return f"the database did not answer within {_PATIENCE:g} s"
    return _no_device(service.devices())


def _no_device(devices: list[DeviceState]) -> str | None:
    """Why no device takes jobs, if none does."""
    if any(device.ready for device in devices):
        return None
    told = (f"{device.name} ({device.reason or device.health.value})" for device in devices)
    return f"none of {len(devices)} devices takes jobs: " + (
        ", ".join(told) or "none is configured"
    )


def _health(devices: list[DeviceState], pulse: _Pulse, *, draining: bool) -> HealthResponse:
    ready = [device for device in devices if device.ready]
    gpus = [device for device in ready if device.name.startswith("cuda:")]
    error = _no_device(devices) or pulse.error
    if error is None and draining:
        error = "the server is stopping and takes no more jobs"
    service = "ready" if ready else "unavailable"
    return HealthResponse(
        status="healthy" if error is None else "unhealthy",
        error=error,
        job_stats=JobStats.model_validate(pulse.job_stats),
        gpu_manager=GpuManager(
            available_gpus=[int(gpu.name.removeprefix("cuda:")) for gpu in gpus if gpu.jobs == 0]
        ),
        compilation_service=service,
        profiling_service=service,
        gpu_available=bool(gpus),
        gpu_count=len(gpus),
        devices=[
            DeviceHealth(
                index=device.index,
                name=device.name,
                ready=device.ready,
                jobs=device.jobs,
                health=device.health.value,
                reason=device.reason,
                environment=device.environment,
                confinement=[
                    ConfinementLayer(name=layer.name, active=layer.active, reason=layer.reason)
                    for layer in device.layers
                ],
            )
            for device in devices
        ],
        database="ready" if pulse.error is None else "unusable",
        draining=draining,
        version=kerneljudge.__version__,
    )
