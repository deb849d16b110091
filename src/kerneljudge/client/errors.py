"""What goes wrong between a client and a server. A kernel that fails is a result, not an error.

Three families: the request is wrong (`RequestError`), the server failed (`ServerError`), or the
job did not end with a verdict (`JobError`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kerneljudge.api import JobResponse, ValidationIssue

__all__ = [
    "AuthenticationError",
    "ConflictError",
    "JobCancelled",
    "JobError",
    "JobTimeout",
    "KernelJudgeError",
    "NotFoundError",
    "RateLimited",
    "RequestError",
    "ServerError",
    "ServerUnreachable",
]


class KernelJudgeError(Exception):
    """No result came back. The message has the server's own words."""

    def __init__(self, message: str, *, status_code: int | None = None, body: Any = None) -> None:
        """Keeps the HTTP status and the decoded body, where there were any."""
        super().__init__(message)
        self.status_code = status_code
        """The HTTP status; None where no answer came."""
        self.body = body
        """The decoded JSON body; None where there was none."""


class RequestError(KernelJudgeError):
    """The server does not take the request (HTTP 4xx): mend it before sending it again."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: Any = None,
        validation_errors: Sequence[ValidationIssue] = (),
    ) -> None:
        """Keeps every mistake that the server found."""
        super().__init__(message, status_code=status_code, body=body)
        self.validation_errors = list(validation_errors)
        """Every mistake that the server found, each with the path of its field."""


class AuthenticationError(RequestError):
    """The API key is missing or unknown (HTTP 401), or may not do this (HTTP 403)."""


class NotFoundError(RequestError):
    """There is no such job, or not for this API key (HTTP 404)."""


class ConflictError(RequestError):
    """It contradicts what is there, such as an idempotency key of another request (HTTP 409)."""


class RateLimited(RequestError):
    """The queue or a quota is full (HTTP 429), and stayed so for as long as was to be waited."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: Any = None,
        retry_after: float | None = None,
    ) -> None:
        """Keeps when the server says that there may be room again."""
        super().__init__(message, status_code=status_code, body=body)
        self.retry_after = retry_after
        """Seconds after which to try again; None where the server does not say."""


class ServerError(KernelJudgeError):
    """The server failed (HTTP 5xx) or answered what cannot be read: the same request may succeed
    later."""


class ServerUnreachable(ServerError):
    """No answer came: nothing listens there, the connection broke, or the time was over."""


class JobError(KernelJudgeError):
    """The job has no verdict: the service failed it, its deadline passed, it was cancelled, or it
    has not ended."""

    def __init__(self, message: str, job: JobResponse) -> None:
        """Keeps the job as it stands."""
        super().__init__(message, body=job.model_dump(mode="json"))
        self.job = job
        """The job, with whatever partial result there is."""


class JobCancelled(JobError):
    """The job was cancelled before it had a verdict."""


class JobTimeout(JobError, TimeoutError):
    """The job had not ended when the time to wait for it was over. It goes on: wait for it again,
    or cancel it."""
