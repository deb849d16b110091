"""From an HTTP answer to a result or an exception."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from kerneljudge.api import (
    CompareResponse,
    EvaluateResponse,
    InvalidRequestResponse,
    JobResponse,
)
from kerneljudge.client.errors import (
    AuthenticationError,
    ConflictError,
    JobCancelled,
    JobError,
    KernelJudgeError,
    NotFoundError,
    RateLimited,
    RequestError,
    ServerError,
)
from kerneljudge.client.retries import retry_after
from kerneljudge.schema import Verdict

__all__ = ["ENDED", "Judged", "decode", "failure_of", "read_json", "result_of"]

Judged = EvaluateResponse | CompareResponse
"""A job's result."""

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The states that a job never leaves."""

_Model = TypeVar("_Model", bound=BaseModel)

_KINDS: dict[int, type[RequestError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
}
_EXCERPT = 2000


def decode(response: httpx.Response, model: type[_Model]) -> _Model:
    """The body of a successful answer. Raises `RequestError` or `ServerError`."""
    if not response.is_success:
        raise failure_of(response)
    return read_json(response.content, model, str(response.url), response.status_code)


def read_json(content: bytes | str, model: type[_Model], source: str, status_code: int) -> _Model:
    """Reads a model from JSON that came from `source`. Raises `ServerError` for anything else."""
    try:
        # Fields that only a newer server knows are kept, in every part of the answer.
        return model.model_validate_json(content, extra="allow")
    except ValidationError as error:
        raise ServerError(
            f"{source} answered with what is no {model.__name__}: {error}",
            status_code=status_code,
            body=_json(content),
        ) from None


def result_of(job: JobResponse) -> Judged:
    """The result of a job that has ended. Raises `JobError` where it has no verdict.

    A job that ran out of time has one.
    """
    if job.status == "cancelled":
        raise JobCancelled(f"the job {job.job_id} was cancelled: {job.error or 'no reason'}", job)
    result = job.result
    if isinstance(result, Judged) and result.verdict is not Verdict.INTERNAL_ERROR:
        return result
    reason = job.error or (result.error if result is not None else None) or "it has no result"
    raise JobError(f"the job {job.job_id} {job.status}: {reason}", job)


def failure_of(response: httpx.Response) -> KernelJudgeError:
    """The exception for an answer that is no success."""
    body = _json(response.content)
    message = f"HTTP {response.status_code} from {response.url}: {_words(response, body)}"
    if not response.is_client_error:
        return ServerError(message, status_code=response.status_code, body=body)
    if response.status_code == 429:
        return RateLimited(message, status_code=429, body=body, retry_after=retry_after(response))
    issues = []
    if isinstance(body, dict) and "validation_errors" in body:
        try:
            issues = InvalidRequestResponse.model_validate(body).validation_errors
        except ValidationError as error:
            message += f"\nits list of mistakes cannot be read: {error}"
    return _KINDS.get(response.status_code, RequestError)(
        "\n".join([message, *(f"  {issue.field}: {issue.message}" for issue in issues)]),
        status_code=response.status_code,
        body=body,
        validation_errors=issues,
    )


def _words(response: httpx.Response, body: Any) -> str:
    """What the server says is wrong."""
    if isinstance(body, dict) and body.get("error"):
        details = body.get("details")
        return f"{body['error']} ({details})" if details else str(body["error"])
    return response.text[:_EXCERPT] or response.reason_phrase


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # no text, no JSON, or more than Python reads of either
        return None
