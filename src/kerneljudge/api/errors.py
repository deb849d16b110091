"""What goes wrong, told in one form: a body with `error` and `status`, and a fitting status."""

from __future__ import annotations

import logging

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

from kerneljudge.api.bodies import BodyError, BodyTooLarge
from kerneljudge.api.replies import NO_CACHE, Replies
from kerneljudge.api.responses import (
    BrokenRuleResponse,
    InvalidRequestResponse,
    ValidationIssue,
)
from kerneljudge.api.waiting import ClientGone
from kerneljudge.service.errors import (
    DatabaseUnusable,
    Draining,
    IdempotencyConflict,
    QueueFull,
    TooMuchMemory,
)

__all__ = ["add_errors"]

_LOG = logging.getLogger(__name__)

# Of no standard: nginx writes it into its log for a client that has closed the connection.
_CLIENT_CLOSED_REQUEST = 499


def add_errors(app: FastAPI, replies: Replies) -> None:
    """Adds a handler for everything that a route may raise."""

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        issues = [
            ValidationIssue(
                field=" -> ".join(str(part) for part in issue["loc"]),
                message=issue["msg"],
                type=issue["type"],
            )
            for issue in error.errors()
        ]
        return replies.body(InvalidRequestResponse(validation_errors=issues), 400)

    @app.exception_handler(BodyError)
    async def unacceptable(_: Request, error: BodyError) -> Response:
        return replies.body(error.answer, 400)

    @app.exception_handler(BodyTooLarge)
    async def too_large(_: Request, error: BodyTooLarge) -> Response:
        body = BrokenRuleResponse(
            error=f"{error}: send smaller tensors as data, or have them generated through init",
            details=f"the limit is {error.limit} bytes (KERNELJUDGE_MAX_BODY_BYTES)",
        )
        # What is left of the body is not read.
        return replies.body(body, 413, {"Connection": "close"})

    # The router's own two are no `fastapi.HTTPException`.
    @app.exception_handler(404)
    @app.exception_handler(405)
    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400:
            body = BrokenRuleResponse(error=str(error.detail), details="in the headers")
            return replies.body(body, 400, error.headers)
        return replies.error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(TooMuchMemory)
    async def too_much_memory(_: Request, error: TooMuchMemory) -> Response:
        body = BrokenRuleResponse(error=str(error), details="at body")
        return replies.body(body, 400)

    @app.exception_handler(QueueFull)
    async def later(_: Request, error: QueueFull) -> Response:
        return replies.later(str(error), error.retry_after)

    @app.exception_handler(IdempotencyConflict)
    async def conflict(_: Request, error: IdempotencyConflict) -> Response:
        return replies.error(409, str(error))

    @app.exception_handler(Draining)
    @app.exception_handler(DatabaseUnusable)
    async def unavailable(_: Request, error: Draining | DatabaseUnusable) -> Response:
        return replies.unavailable(str(error))

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        # Nobody reads it.
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # The traceback goes to the log, through the server that runs the application.
        _LOG.error("%s %s failed: %s", request.method, request.url.path, error)
        body = replies.answers.failure(f"internal error: {type(error).__name__}: {error}")
        return Response(body.model_dump_json(), 500, dict(NO_CACHE), media_type="application/json")
