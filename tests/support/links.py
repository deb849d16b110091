"""A store that a test can cut off from its service."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from kerneljudge.service import DatabaseUnusable, SqlStore


class Link:
    """Passes calls on to a store, as long as it is whole.

    `down`: the database does not answer, and says so. `dead`: no call ever returns, as if the
    server's process had been killed; what it had written stays.
    """

    def __init__(self, store: SqlStore, *, exclusive: bool = True) -> None:
        """Not exclusive: other servers are said to share the database."""
        self._store = store
        self.exclusive = exclusive
        self.down = False
        self.dead = False
        self.refused = asyncio.Event()
        """Set when a call found it down."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **named: Any) -> Any:
            if self.down:
                self.refused.set()
                raise DatabaseUnusable("the database is down")
            if self.dead:
                await asyncio.Event().wait()
            result = await method(*arguments, **named)
            if self.dead:
                await asyncio.Event().wait()
            return result

        return call
