"""The endpoint `/mcp` of the HTTP server: MCP over streamable HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http_manager import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    StreamableHTTPSessionManager,
)
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kerneljudge.api.access import Access, Denied
from kerneljudge.api.mcp.local import LocalBackend
from kerneljudge.api.mcp.protocol import create_mcp_server
from kerneljudge.api.responses import ErrorResponse
from kerneljudge.service import JobService, Settings

__all__ = ["mount_mcp"]


def mount_mcp(app: FastAPI, service: JobService, settings: Settings, access: Access) -> None:
    """Adds `/mcp` to the application, under the same keys and scopes as the rest of it.

    Its sessions begin and end with the application's lifespan, within that of the `service`.
    """

    def backend_of(context: ServerRequestContext[Any, Any]) -> LocalBackend:
        # The HTTP request that brought this very call: a session does not stand for its key.
        assert isinstance(context.request, Request)
        return LocalBackend(service, settings, access, context.request.state.caller)

    endpoint = _Endpoint(access)
    outer = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(running: Any) -> AsyncIterator[Any]:
        # A manager serves once; an application may be started again.
        manager = StreamableHTTPSessionManager(
            create_mcp_server(backend_of),
            # The SDK parses a message on the event loop: none is so long that all others wait.
            max_request_body_size=min(settings.max_body_bytes, DEFAULT_MAX_REQUEST_BODY_SIZE),
        )
        async with outer(running) as state, manager.run():
            endpoint.manager = manager
            yield state

    app.router.lifespan_context = lifespan
    app.router.routes.append(Route("/mcp", endpoint, include_in_schema=False))


class _Endpoint:
    """Lets in whoever has a key, and tells the session manager whose key it is."""

    def __init__(self, access: Access) -> None:
        self.manager: StreamableHTTPSessionManager | None = None
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            caller = await self._access.caller_of(request)
            if caller.key is not None:
                # The session manager keeps a session to the key that began it.
                token = AccessToken(token="", client_id=caller.key.key_id, scopes=[])
                scope["user"] = AuthenticatedUser(token)
        except Denied as denied:
            await _refusal(denied)(scope, receive, send)
            return
        assert self.manager is not None
        await self.manager.handle_request(scope, receive, send)


def _refusal(denied: Denied) -> Response:
    return Response(
        ErrorResponse(error=denied.detail).model_dump_json(),
        status_code=denied.status_code,
        headers={"Cache-Control": "no-store", **(denied.headers or {})},
        media_type="application/json",
    )
