"""Whose turn it is on a device, and when it is to be quiet there."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from kerneljudge.judging.cancellation import Cancellation

__all__ = ["Lease", "Quiet", "Turn"]


class Lease:
    """The device, which one job at a time has, in the order in which they came for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Cancellation] = deque()
        self._taken = False

    def take(self, cancellation: Cancellation) -> None:
        """Waits until no other job has it. Raises `Cancelled`."""
        with cancellation.ending(self._tell), self._changed:
            self._waiting.append(cancellation)
            try:
                self._changed.wait_for(
                    lambda: (
                        cancellation.asked or (not self._taken and self._waiting[0] is cancellation)
                    )
                )
                cancellation.check()
                self._taken = True
            finally:
                self._waiting.remove(cancellation)
                self._changed.notify_all()

    def give_back(self) -> None:
        """Lets the next job have it."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Turn:
    """One job's use of the device: from its entry on, but for while it is given up."""

    def __init__(self, lease: Lease, quiet: Quiet, cancellation: Cancellation) -> None:
        self._lease = lease
        self._quiet = quiet
        self._cancellation = cancellation
        self._has = False
        self._holds = False
        self._timing = False

    def __enter__(self) -> Turn:
        self._lease.take(self._cancellation)
        self._has = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._holds:
            self._holds = False
            self._quiet.release()
        if self._has:
            self._has = False
            self._lease.give_back()

    def approach(self) -> None:
        """Says that a measurement is near: what would disturb it begins no more, and what is under
        way ends meanwhile."""
        if not self._holds:
            self._holds = True
            self._quiet.hold()

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """For a measurement, the last of the turn: nothing disturbs it, but for while it is given
        up."""
        self.approach()
        self._quiet.wait()
        self._timing = True
        try:
            yield
        finally:
            self._timing = False

    @contextlib.contextmanager
    def given_up(self) -> Iterator[None]:
        """Lets other jobs use the device meanwhile. Raises `Cancelled`, and is then over."""
        held = self._holds
        # A job whose turn it then is may need what disturbs, and this one waits for that job.
        self.__exit__()
        yield
        self.__enter__()
        if held:
            self.approach()
        if self._timing:
            self._quiet.wait()


class Quiet:
    """Keeps what would disturb a measurement apart from measurements.

    Contexts are created and destroyed at any time, several at once, but for while something is
    timed or waits to be: a measurement waits for those under way, and for no others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._disturbing = 0
        self._holds = 0

    @property
    def wanted(self) -> bool:
        """Whether something is timed, or soon to be."""
        return self._holds > 0

    def hold(self) -> None:
        """Until `release`, nothing that disturbs begins. The lease allows one at a time."""
        with self._changed:
            self._holds += 1

    def release(self) -> None:
        """Ends a `hold`."""
        with self._changed:
            self._holds -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Within a `hold`: returns when nothing disturbs any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._disturbing)

    @contextlib.contextmanager
    def disturbing(self) -> Iterator[None]:
        """For what measurements must not run beside."""
        with self._changed:
            self._changed.wait_for(lambda: not self._holds)
            self._disturbing += 1
        try:
            yield
        finally:
            with self._changed:
                self._disturbing -= 1
                self._changed.notify_all()
