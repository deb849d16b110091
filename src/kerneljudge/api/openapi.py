"""The OpenAPI document: which answers a path has, and the request bodies, which the handlers read
themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kerneljudge.api.bodies import BatchRequest
from kerneljudge.api.responses import (
    BrokenRuleResponse,
    CancelledResponse,
    ErrorResponse,
    InvalidRequestResponse,
    JobEventResponse,
    JobResponse,
    ServerErrorResponse,
)
from kerneljudge.schema import CompareRequest, EvaluateRequest, LegacyCompareRequest

__all__ = ["answers", "document", "request_body", "submitting"]

_REFERENCE = "#/components/schemas/{model}"
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    EvaluateRequest,
    CompareRequest,
    LegacyCompareRequest,
    BatchRequest,
)

_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
}
_LOCATION: Final = {
    "description": "Where the job is: `/job/{job_id}`",
    "schema": {"type": "string"},
}

_ANSWERS: Final[dict[int, dict[str, Any]]] = {
    400: {
        "model": InvalidRequestResponse | BrokenRuleResponse,
        "description": "The request is malformed, or breaks a rule or a limit",
    },
    401: {"model": ErrorResponse, "description": "It takes an API key"},
    403: {"model": ErrorResponse, "description": "The API key, or the page, may not do this"},
    404: {"model": ErrorResponse, "description": "There is no such job"},
    408: {"model": ErrorResponse, "description": "The body did not arrive in time"},
    409: {
        "model": CancelledResponse | ErrorResponse,
        "description": "The job was cancelled, or its idempotency key came with another request",
    },
    413: {"model": BrokenRuleResponse, "description": "The request is too large"},
    415: {"model": ErrorResponse, "description": "The body is not JSON"},
    429: {
        "model": ErrorResponse,
        "description": "Too many jobs wait, or too many requests came: try again later",
        "headers": _RETRY_AFTER,
    },
    500: {"model": ServerErrorResponse, "description": "The server failed"},
    503: {
        "model": ServerErrorResponse,
        "description": "The server is stopping, or its database does not answer: try again later",
        "headers": _RETRY_AFTER,
    },
}


def answers(*status_codes: int) -> dict[int | str, dict[str, Any]]:
    """The entry `responses` of a path that has these beside the good ones."""
    return {code: _ANSWERS[code] for code in status_codes}


def submitting(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The entry `responses` of a path that submits one job, whose result is this model."""
    return {
        200: {"model": model, "description": "Judged, whatever the verdict"},
        202: {
            "model": JobResponse,
            "description": "Accepted, with `wait=false` or `Prefer: respond-async`",
            "headers": {"Location": _LOCATION},
        },
        **answers(400, 401, 403, 408, 409, 413, 415, 429, 503),
        500: {
            "model": model | ServerErrorResponse,
            "description": "The job ran out of time, or the server failed",
        },
    }


def request_body(*names: str, examples: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a path whose body is one of the schemas of these names."""
    references = [{"$ref": _REFERENCE.format(model=name)} for name in names]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {
        "parameters": [
            {
                "name": "X-KernelJudge-Client",
                "in": "header",
                "description": "Whose share of the devices the job takes, on a server without "
                "API keys",
                "schema": {"type": "string", "minLength": 1, "maxLength": 100},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        },
    }


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A function for `app.openapi`, which makes the document once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _, definitions = models_json_schema(
                [*((body, "validation") for body in _BODIES), (JobEventResponse, "serialization")],
                ref_template=_REFERENCE,
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, definition in definitions["$defs"].items():
                schemas.setdefault(name, definition)
            _drop_unprocessable(schema)
            _make_keys_optional(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def _drop_unprocessable(schema: dict[str, Any]) -> None:
    """Takes out the 422 that FastAPI writes for every parameter: no path answers with it."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _make_keys_optional(schema: dict[str, Any]) -> None:
    """Says that a server may have no API keys; then nobody needs one."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "security" in operation:
                operation["security"] = [{}, *operation["security"]]
