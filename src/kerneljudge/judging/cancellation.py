"""A job that is wanted no more ends, whatever it waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Cancellation", "Cancelled"]


class Cancelled(Exception):
    """The job is wanted no more."""


class Cancellation:
    """Whether one job is still wanted. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._asked = False

    @property
    def asked(self) -> bool:
        """Whether the job is wanted no more."""
        return self._asked

    def check(self) -> None:
        """Raises `Cancelled` if the job is wanted no more."""
        if self._asked:
            raise Cancelled

    def cancel(self) -> None:
        """Has the job end: calls what ends its waiting."""
        # Under the lock: what is called here has not been let go of by the job meanwhile.
        with self._lock:
            self._asked = True
            for call in self._calls:
                call()

    @contextmanager
    def ending(self, call: Callable[[], None]) -> Iterator[None]:
        """Has `call`, which must not wait, called from another thread when the job is cancelled
        within the block. Raises `Cancelled` instead of entering it too late."""
        with self._lock:
            self.check()
            self._calls.append(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(call)
