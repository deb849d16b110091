"""Whoever waits for something to happen to a job, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from kerneljudge.service.records import Job

__all__ = ["Watch", "Watchers"]


class Watch:
    """What all who watch one job share. Waiting for its futures costs nothing until they are set;
    wait for them by `asyncio.wait`, which leaves them to the others when it is cancelled."""

    def __init__(self) -> None:
        """Belongs to the running event loop."""
        self.ended: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        """The job, once it has ended; None where this server will not see its end."""
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when something was stored of the job; then there is another."""
        self.watchers = 0
        """How many watch."""

    def notify(self) -> None:
        """Says that something was stored."""
        changed, self.changed = self.changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    def end(self, job: Job | None) -> None:
        """Says that the job has ended, or that its end will not be seen here."""
        if not self.ended.done():
            self.ended.set_result(job)
        self.notify()


class Watchers:
    """All watches, by job. One exists only while somebody watches."""

    def __init__(self) -> None:
        """Starts with none."""
        self._watches: dict[str, Watch] = {}

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Watches a job: from then on nothing of it is missed."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch()
        watch.watchers += 1
        try:
            yield watch
        finally:
            watch.watchers -= 1
            if not watch.watchers:
                del self._watches[job_id]

    def watched(self) -> set[str]:
        """The jobs that somebody watches."""
        return set(self._watches)

    def changed(self, job_id: str) -> None:
        """Something was stored of the job."""
        if watch := self._watches.get(job_id):
            watch.notify()

    def ended(self, job: Job) -> None:
        """The job has ended."""
        if watch := self._watches.get(job.job_id):
            watch.end(job)

    def release(self, job_id: str) -> None:
        """This server will not see the job's end."""
        if watch := self._watches.get(job_id):
            watch.end(None)
