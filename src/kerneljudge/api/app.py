"""The HTTP interface of one service."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

import kerneljudge
from kerneljudge.api.answers import Answers
from kerneljudge.api.bodies import COMPARE, EVALUATE, BodyError, BodyTooLarge
from kerneljudge.api.examples import COMPARE_EXAMPLES, EVALUATE_EXAMPLES
from kerneljudge.api.openapi import document, request_body
from kerneljudge.api.responses import (
    BrokenRuleResponse,
    CleanupResponse,
    CompareResponse,
    DeviceHealth,
    ErrorResponse,
    EvaluateResponse,
    GpuManager,
    HealthResponse,
    InvalidRequestResponse,
    JobResponse,
    JobStats,
    ServerErrorResponse,
    StatsResponse,
)
from kerneljudge.schema import JobRequest, LegacyCompareRequest
from kerneljudge.service import (
    DeviceState,
    EvaluatorUnavailable,
    Job,
    JobService,
    Settings,
)

__all__ = ["create_app"]

_LOG = logging.getLogger(__name__)

NO_CACHE: Final = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}
"""Headers of every judgement and every error."""

_DESCRIPTION = """\
An online judge for GPU kernels: source in, verdict and times out.

A kernel that fails is no server error: HTTP 200 with a verdict. HTTP 400 says that the request is
malformed, HTTP 500 that the job ran out of time or that the server failed.
"""

_BAD_REQUEST: Final[dict[int | str, dict[str, Any]]] = {
    400: {
        "model": InvalidRequestResponse | BrokenRuleResponse,
        "description": "The request is malformed, or breaks a rule",
    },
    413: {"model": BrokenRuleResponse, "description": "The request is too large"},
}


def create_app(service: JobService, settings: Settings | None = None) -> FastAPI:
    """The application that serves a `service`, which starts and stops with it.

    The service's evaluator is started and stopped by the caller.
    """
    settings = settings if settings is not None else Settings()
    answers = Answers(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="KernelJudge",
        version=kerneljudge.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
    )
    _add_jobs(app, service, settings, answers)
    _add_insight(app, service)
    _add_errors(app, service, answers)
    app.openapi = document(app)  # type: ignore[method-assign]
    return app


def _add_jobs(app: FastAPI, service: JobService, settings: Settings, answers: Answers) -> None:
    async def judged(request: JobRequest) -> Response:
        submitted = await service.submit(request)
        job = await service.wait(submitted.job_id)
        body = answers.judged(job, _device(service, job))
        return _reply(body, answers.status_code(job), _headers(service, answers, job))

    @app.post(
        "/evaluate",
        summary="Evaluate one kernel",
        responses=_judgements(EvaluateResponse),
        openapi_extra=request_body("EvaluateRequest", examples=EVALUATE_EXAMPLES),
        tags=["jobs"],
    )
    async def evaluate(request: Request) -> Response:
        """Builds, runs and times one kernel. `correctness` means that it ran without an error."""
        return await judged(await EVALUATE.read(request, settings.max_body_bytes))

    @app.post("/", include_in_schema=False)
    @app.post(
        "/compare",
        summary="Compare two kernels",
        responses=_judgements(CompareResponse),
        openapi_extra=request_body(
            "CompareRequest", "LegacyCompareRequest", examples=COMPARE_EXAMPLES
        ),
        tags=["jobs"],
    )
    async def compare(request: Request) -> Response:
        """Checks a candidate against a reference, and times both."""
        body = await COMPARE.read(request, settings.max_body_bytes)
        return await judged(body.modern() if isinstance(body, LegacyCompareRequest) else body)

    @app.get(
        "/job/{job_id}",
        summary="One job",
        responses={
            200: {"model": JobResponse},
            404: {"model": ErrorResponse, "description": "There is no such job"},
        },
        tags=["jobs"],
    )
    async def job(job_id: str) -> Response:
        """The state of a job, and its result once it has ended."""
        found = await service.get(job_id)
        if found is None:
            raise HTTPException(
                404,
                f"there is no job {job_id!r}: it was never submitted here, or ended so long ago "
                "that it was dropped",
            )
        return _reply(answers.job(found, _device(service, found)), 200, NO_CACHE)


def _add_insight(app: FastAPI, service: JobService) -> None:
    @app.get(
        "/health",
        summary="Health of the server and its devices",
        responses={
            200: {"model": HealthResponse},
            500: {"model": HealthResponse, "description": "No device takes jobs"},
        },
        tags=["server"],
    )
    async def health() -> Response:
        """Whether jobs are taken; answers while jobs run."""
        body = _health(service.devices(), await service.job_stats())
        return _reply(body, 200 if body.status == "healthy" else 500, NO_CACHE)

    @app.get(
        "/stats",
        summary="Counts and times since the server started",
        responses={200: {"model": StatsResponse}},
        tags=["server"],
    )
    async def stats() -> Response:
        """Jobs, compilations, profilings, devices, throughput."""
        return _reply(StatsResponse.model_validate(await service.stats()), 200, NO_CACHE)

    @app.post(
        "/admin/cleanup-jobs",
        summary="Drop old jobs",
        responses={200: {"model": CleanupResponse}},
        tags=["server"],
    )
    async def cleanup_jobs() -> Response:
        """Drops the jobs that ended at least 300 seconds ago."""
        return _reply(CleanupResponse(removed_jobs=await service.cleanup()), 200, NO_CACHE)


def _add_errors(app: FastAPI, service: JobService, answers: Answers) -> None:
    @app.exception_handler(BodyError)
    async def malformed(_: Request, error: BodyError) -> Response:
        return _reply(error.answer, 400, _headers(service, answers))

    @app.exception_handler(BodyTooLarge)
    async def too_large(_: Request, error: BodyTooLarge) -> Response:
        body = BrokenRuleResponse(
            error=f"{error}: send smaller tensors as data, or have them generated through init",
            details=f"the limit is {error.limit} bytes (KERNELJUDGE_MAX_BODY_BYTES)",
        )
        return _reply(body, 413, _headers(service, answers))

    # By number, since the router's own errors are no `fastapi.HTTPException`.
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def http_error(_: Request, error: HTTPException) -> Response:
        headers = {**_headers(service, answers), **(error.headers or {})}
        return _reply(ErrorResponse(error=error.detail), error.status_code, headers)

    @app.exception_handler(EvaluatorUnavailable)
    async def unavailable(_: Request, error: EvaluatorUnavailable) -> Response:
        return _reply(answers.failure(str(error)), 500, _headers(service, answers))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # The traceback goes to the log, through the server that runs the application.
        _LOG.error("%s %s failed: %s", request.method, request.url.path, error)
        body = answers.failure(f"internal error: {type(error).__name__}: {error}")
        return _reply(body, 500, NO_CACHE)


def _judgements(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"model": model, "description": "Judged, whatever the verdict"},
        **_BAD_REQUEST,
        500: {
            "model": model | ServerErrorResponse,
            "description": "The job ran out of time, or the server failed",
        },
    }


def _device(service: JobService, job: Job) -> DeviceState | None:
    devices = service.devices()
    return next((device for device in devices if device.index == job.device), None)


def _headers(service: JobService, answers: Answers, job: Job | None = None) -> dict[str, str]:
    """No caching, and the type of the GPU that judged the job or, without one, of the first."""
    environment = job.report.environment if job is not None and job.report is not None else None
    if environment is None:
        known = (device.environment for device in service.devices())
        environment = next((one for one in known if one is not None), None)
    gpu_type = answers.gpu_type(environment)
    return NO_CACHE if gpu_type is None else {**NO_CACHE, "X-GPU-Type": gpu_type}


def _reply(body: BaseModel, status_code: int, headers: dict[str, str]) -> Response:
    return Response(
        body.model_dump_json(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )


def _health(devices: list[DeviceState], job_stats: dict[str, Any]) -> HealthResponse:
    ready = [device for device in devices if device.ready]
    gpus = [device for device in ready if device.name.startswith("cuda:")]
    service = "ready" if ready else "unavailable"
    return HealthResponse(
        status="healthy" if ready else "unhealthy",
        error=None
        if ready
        else f"none of {len(devices)} devices takes jobs: "
        + (", ".join(device.name for device in devices) or "none is configured"),
        job_stats=JobStats.model_validate(job_stats),
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
                environment=device.environment,
            )
            for device in devices
        ],
        version=kerneljudge.__version__,
    )
