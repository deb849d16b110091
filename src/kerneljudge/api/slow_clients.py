"""Clients that trickle, or pour: none holds a connection for ever, or memory without a bound."""

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
_MAX_HEADERS: Final = 64 * 1024
"""Bytes of headers above which the connection is closed; h11 has the same bound by itself."""


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
        clock = asyncio.get_running_loop().time
        left = self.seconds
        arriving = True

        async def timely() -> Message:
            nonlocal arriving, left
            if not arriving:
                return await receive()
            began = clock()
            try:
                async with asyncio.timeout(left):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"the body did not arrive within {self.seconds:g} s: send it again",
                    {"Connection": "close"},
                ) from None
            # What the application lets it wait for is not the client's time.
            left -= clock() - began
            arriving = message["type"] == "http.request" and message.get("more_body", False)
            return message

        await self._app(scope, timely, send)


class ImpatientProtocol(HTTPProtocol):
    """uvicorn's connection, which ends where headers do not arrive or do not end, or answers are
    not read."""

    header_seconds = _HEADER_SECONDS
    write_seconds = _WRITE_SECONDS
    _headers: int | None = None  # bytes of those that arrive, as far as httptools tells of any
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expects headers."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expects the rest of the headers, unless a request is being answered."""
        super().data_received(data)
        if self._headers is not None:
            self._headers += len(data)
            if self._headers > _MAX_HEADERS:
                self.transport.abort()
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and self._reading is not None:
            self._reading.cancel()
            self._reading = None
        elif not answering and self._reading is None:
            self._expect()

    def on_message_begin(self) -> None:
        """Headers begin."""
        self._headers = 0
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        """Headers end."""
        self._headers = None
        super().on_headers_complete()  # type: ignore[misc]

    def on_chunk_header(self) -> None:
        """If this is the last chunk, trailers begin."""
        self._headers = 0

    def on_body(self, body: bytes) -> None:
        """It was not the last chunk."""
        self._headers = None
        super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        """Trailers end."""
        self._headers = None
        super().on_message_complete()  # type: ignore[misc]

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
