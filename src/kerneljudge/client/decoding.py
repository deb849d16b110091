"""From an HTTP answer to a result or an exception."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from kerneljudge.api import InvalidRequestResponse, JudgedResponse
from kerneljudge.client.errors import RequestError, ServerError
from kerneljudge.schema import Verdict

__all__ = ["decode", "decode_judged"]

_Model = TypeVar("_Model", bound=BaseModel)
_Judged = TypeVar("_Judged", bound=JudgedResponse)

_EXCERPT = 2000


def decode(response: httpx.Response, model: type[_Model]) -> _Model:
    """The body of a successful answer. Raises `RequestError` or `ServerError`."""
    if not response.is_success:
        raise _failure(response)
    return _read(response, model)


def decode_judged(response: httpx.Response, model: type[_Judged]) -> _Judged:
    """Like `decode`; a job that ran out of time is a result too, although its status is 500."""
    body = None if response.is_success else _json(response)
    if isinstance(body, dict) and body.get("verdict", Verdict.INTERNAL_ERROR) != (
        Verdict.INTERNAL_ERROR
    ):
        return _read(response, model)
    return decode(response, model)


def _read(response: httpx.Response, model: type[_Model]) -> _Model:
    try:
        # Fields that only a newer server knows are kept, in every part of the answer.
        return model.model_validate_json(response.content, extra="allow")
    except ValidationError as error:
        raise ServerError(
            f"{response.url} answered with what is no {model.__name__}: {error}",
            status_code=response.status_code,
            body=_json(response),
        ) from None


def _failure(response: httpx.Response) -> RequestError | ServerError:
    body = _json(response)
    message = f"HTTP {response.status_code} from {response.url}: {_words(response, body)}"
    if not response.is_client_error:
        return ServerError(message, status_code=response.status_code, body=body)
    issues = []
    if isinstance(body, dict) and "validation_errors" in body:
        try:
            issues = InvalidRequestResponse.model_validate(body).validation_errors
        except ValidationError as error:
            message += f"\nits list of mistakes cannot be read: {error}"
    return RequestError(
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


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
