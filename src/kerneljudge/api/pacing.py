"""A thousand requests that come at once do not hold up the one that comes next."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Paced"]

_AT_ONCE: Final = 8
"""Requests that begin in one turn of the event loop; each has the loop for a millisecond."""


class Paced:
    """Middleware: POSTs begin a few at each turn of the event loop, in order of arrival.

    Whatever else is asked, such as `/health`, waits for those few at most.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wraps an application."""
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._begun < _AT_ONCE:
            if not self._begun:
                loop.call_soon(self._next)
            self._begun += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """A new turn of the loop."""
        self._begun = 0
        while self._waiting and self._begun < _AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # its client may have gone
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)
