"""The server's permission to build: it bounds the builds of all its judges together."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kerneljudge.judging.cancellation import Cancellation
from kerneljudge.judging.protocol import BuildEnded, BuildWanted

__all__ = ["Permits"]


class Permits:
    """Asks the server for permits, and gives them back. Safe to use from several threads."""

    def __init__(self, tell: Callable[[BuildWanted | BuildEnded], None]) -> None:
        self._tell = tell
        self._numbers = itertools.count()
        self._waiting: dict[int, threading.Event] = {}

    @contextmanager
    def held(self, cancellation: Cancellation) -> Iterator[None]:
        """Waits for a permit, and holds it. Raises `Cancelled`."""
        number = next(self._numbers)
        awaited = self._waiting[number] = threading.Event()
        self._tell(BuildWanted(number=number))
        try:
            with cancellation.ending(awaited.set):
                awaited.wait()
            cancellation.check()
            yield
        finally:
            del self._waiting[number]
            self._tell(BuildEnded(number=number))

    def grant(self, number: int) -> None:
        """The server has given a permit; it may be wanted no more."""
        awaited = self._waiting.get(number)
        if awaited is not None:
            awaited.set()
