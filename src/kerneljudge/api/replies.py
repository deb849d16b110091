"""HTTP responses: a body, a status code, and the headers that go with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from fastapi import Response
from pydantic import BaseModel

from kerneljudge.api.answers import Answers, JudgedBody
from kerneljudge.api.responses import ErrorResponse, JobResponse
from kerneljudge.service import DeviceState, Job, JobService, Settings

__all__ = ["NO_CACHE", "Replies"]

NO_CACHE: Final = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}
"""Headers of every answer."""

_DRAINING_SECONDS: Final = 5


class Replies:
    """Writes responses in the name of one server."""

    def __init__(self, service: JobService, settings: Settings) -> None:
        """Of the devices of this service, with the names of these settings."""
        self._service = service
        self.answers: Final = Answers(settings)
        """Writes the bodies."""

    def body(
        self,
        body: BaseModel,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        job: Job | None = None,
    ) -> Response:
        """A response with this body; `X-GPU-Type` names the GPU that judged the `job`, or without
        one the first."""
        return Response(
            body.model_dump_json(),
            status_code=status_code,
            headers={**NO_CACHE, **self._gpu_type(job), **(headers or {})},
            media_type="application/json",
        )

    def end(self, job: Job, headers: Mapping[str, str]) -> Response:
        """What a POST that waits is answered with, once its job has ended, or the server stops."""
        if not job.state.finished:
            where = {"Location": f"/job/{job.job_id}", "Retry-After": str(_DRAINING_SECONDS)}
            headers = {**headers, **where}
        return self.body(self.ended(job), self.answers.status_code(job), headers, job=job)

    def ended(self, job: Job) -> JudgedBody:
        """The body of `end`."""
        return self.answers.judged(job, self._device(job))

    def job(
        self, job: Job, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The job as it stands."""
        return self.body(self.described(job), status_code, headers, job=job)

    def described(self, job: Job) -> JobResponse:
        """The body of `job`."""
        return self.answers.job(job, self._device(job))

    def accepted(self, job: Job, headers: Mapping[str, str]) -> Response:
        """What a POST that does not wait is answered with."""
        return self.job(job, 202, {"Location": f"/job/{job.job_id}", **headers})

    def error(
        self, status_code: int, message: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        """A refusal."""
        return self.body(ErrorResponse(error=message), status_code, headers)

    def unavailable(self, message: str) -> Response:
        """HTTP 503: the server takes nothing now."""
        retry = {"Retry-After": str(_DRAINING_SECONDS)}
        return self.body(self.answers.failure(message), 503, retry)

    def later(self, message: str, retry_after: float) -> Response:
        """HTTP 429: the client asks for too much at once."""
        return self.error(429, message, {"Retry-After": str(max(1, math.ceil(retry_after)))})

    def _device(self, job: Job) -> DeviceState | None:
        devices = self._service.devices()
        return next((device for device in devices if device.index == job.device), None)

    def _gpu_type(self, job: Job | None) -> dict[str, str]:
        environment = job.report.environment if job is not None and job.report is not None else None
        if environment is None:
            known = (device.environment for device in self._service.devices())
            environment = next((one for one in known if one is not None), None)
        gpu_type = self.answers.gpu_type(environment)
        return {} if gpu_type is None else {"X-GPU-Type": gpu_type}
