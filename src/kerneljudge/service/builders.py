"""The builders of this machine: how many builds may run at once, over all devices."""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["BuilderPool"]


class BuilderPool:
    """Gives permits to build, in the order in which they are asked for.

    A permit is known by its holder, a judge, and the judge's own number for it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        """Permits in all."""
        self._busy: set[tuple[Hashable, int]] = set()
        self._waiting: dict[tuple[Hashable, int], Callable[[], None]] = {}

    @property
    def busy(self) -> int:
        """Permits that are held."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Builds that wait for one."""
        return len(self._waiting)

    def want(self, holder: Hashable, number: int, grant: Callable[[], None]) -> None:
        """Has `grant` called as soon as there is a permit."""
        self._waiting[holder, number] = grant
        self._grant()

    def end(self, holder: Hashable, number: int) -> None:
        """Takes a permit back, or the wish for one."""
        self._busy.discard((holder, number))
        self._waiting.pop((holder, number), None)
        self._grant()

    def drop(self, holder: Hashable) -> None:
        """Takes back everything of a judge that has ended."""
        self._busy = {permit for permit in self._busy if permit[0] is not holder}
        for permit in [permit for permit in self._waiting if permit[0] is holder]:
            del self._waiting[permit]
        self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._busy) < self.size:
            permit = next(iter(self._waiting))
            grant = self._waiting.pop(permit)
            self._busy.add(permit)
            grant()
