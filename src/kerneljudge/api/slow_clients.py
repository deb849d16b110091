"""Clients that trickle: none holds a connection, or what it has sent so far, for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as HTTPProtocol
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
else:
    # httptools where it is installed, else h11.
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HTTPProtocol

__all__ = ["ImpatientProtocol", "TimelyBodies"]

_BODY_SECONDS: Final = 60.0
"""Seconds within which the body of a request must arrive; then it is answered with 408."""
_HEADER_SECONDS: Final = 30.0
"""Seconds within which the headers of a request must arrive; then the connection is closed."""
_WRITE_SECONDS: Final = 60.0
"""Seconds for which a client may leave what it is sent unread; then the connection is closed."""


class TimelyBodies:
    """Middleware: a body that does not arrive in time raises 408 where it is read."""

    seconds = _BODY_SECONDS

    def __init__(self, app: ASGIApp) -> None:
        """Wraps an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        arriving = True

        async def timely() -> Message:
            nonlocal arriving
            if not arriving:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the body did not arrive within {self.seconds:g} s: send it again",
                    {"Connection": "close"},
                ) from None
            arriving = message["type"] == "http.request" and message.get("more_body", False)
            return message

        await self._app(scope, timely, send)


class ImpatientProtocol(HTTPProtocol):
    """uvicorn's connection, which ends where headers do not arrive, or answers are not read."""

    header_seconds = _HEADER_SECONDS
    write_seconds = _WRITE_SECONDS
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expects headers."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expects the rest of the headers, unless a request is being answered."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and self._reading is not None:
            self._reading.cancel()
            self._reading = None
        elif not answering and self._reading is None:
            self._expect()

    def pause_writing(self) -> None:
        """Expects the client to read."""
        super().pause_writing()
        self._writing = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Expects nothing of the client."""
        super().resume_writing()
        self._forget_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expects nothing any more."""
        super().connection_lost(exc)
        self._forget_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _expect(self) -> None:
        self._reading = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _forget_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
