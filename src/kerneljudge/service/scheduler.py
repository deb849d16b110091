"""Which job goes to which device next. Decides alone: no clock, no database, no event loop."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

from kerneljudge.service.evaluator import DeviceState
from kerneljudge.service.records import QueuedJob

__all__ = ["Assignment", "Scheduler"]

# What the first job is expected to take, in device seconds, and how much each one's time counts in
# what is expected of the next.
_FIRST_GUESS = 1.0
_SMOOTHING = 0.2

_number = attrgetter("number")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job and the device that it is to go to."""

    job: QueuedJob
    """The job."""
    device: int
    """The device's index."""


@dataclass(slots=True)
class _Client:
    """One client's part in the fair share."""

    used: float
    """Weighted device seconds that it has had, on the scale that all clients share: who has the
    least goes next."""
    waiting: int = 0
    running: int = 0


@dataclass(slots=True)
class _Running:
    """A job that has been given a device."""

    assignment: Assignment
    expected: float
    """Device seconds that were charged for it in advance."""


@dataclass(slots=True)
class _Room:
    """What a device has left while assignments are looked for."""

    index: int
    jobs: int
    slots: int
    memory: float
    """Bytes; infinite while unknown."""
    used: int

    def fits(self, memory_bytes: int) -> bool:
        """Whether a job of this need may be put beside what runs there."""
        return self.slots > 0 and (
            self.used + memory_bytes <= self.memory or (self.jobs == 0 and self.suits(memory_bytes))
        )

    def suits(self, memory_bytes: int) -> bool:
        """Whether it may ever."""
        return memory_bytes <= self.memory


class Scheduler:
    """Hands waiting jobs to devices.

    Higher priorities go first, whatever else holds. Within one, clients share the time of the
    devices by their weights (stride scheduling): whoever has had least of it, for its weight, goes
    next. Time is charged as expected when a job is handed out, and put right when it has ended. A
    client that comes, or comes back, starts level with the others: nobody saves up time by idling.
    Each client's own jobs go oldest first.

    A job that no device can take now is passed over. If that is for want of memory beside the
    jobs that run, a device is kept free of further ones until it fits.
    """

    def __init__(self) -> None:
        """Starts without jobs."""
        self._waiting: dict[str, QueuedJob] = {}
        # By priority and client, oldest first.
        self._queues: dict[int, dict[str, list[QueuedJob]]] = {}
        self._running: dict[str, _Running] = {}
        self._clients: dict[str, _Client] = {}
        self._weights: Mapping[str, float] = {}
        self._level = 0.0
        self._expected = _FIRST_GUESS

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Shares by client; 1 for one that is not named."""
        if any(not (weight > 0 and math.isfinite(weight)) for weight in weights.values()):
            raise ValueError(f"weights are positive numbers: {dict(weights)}")
        self._weights = dict(weights)

    def add(self, job: QueuedJob) -> None:
        """Lets a job wait; one that waits or runs already is left as it is."""
        if job.job_id in self._waiting or job.job_id in self._running:
            return
        self._waiting[job.job_id] = job
        queue = self._queues.setdefault(job.priority, {}).setdefault(job.client, [])
        insort(queue, job, key=_number)
        self._active(job.client).waiting += 1

    def discard(self, job_id: str) -> None:
        """Forgets a job, if it waits."""
        job = self._waiting.get(job_id)
        if job is not None:
            self._take(job)
            self._retire(job.client)

    def next(self, devices: Iterable[DeviceState]) -> Assignment | None:
        """The job that goes next, and where to; None where none can go now.

        It counts as running on the device until `ended` is told of it.
        """
        rooms = [room for room in map(self._room, devices) if room is not None]
        kept: set[int] = set()
        for job in self._in_order():
            open_to_it = [room for room in rooms if room.index not in kept]
            if not any(room.slots > 0 for room in open_to_it):
                return None
            fitting = [room for room in open_to_it if room.fits(job.memory_bytes)]
            if fitting:
                return self._assign(job, min(fitting, key=lambda room: (room.jobs, room.index)))
            if suitable := [room for room in open_to_it if room.suits(job.memory_bytes)]:
                kept.add(min(suitable, key=lambda room: (room.used, room.index)).index)
        return None

    def ended(self, job_id: str, seconds: float) -> None:
        """Takes a running job off its device, of whose time it had `seconds`.

        A job whose share of the device is nothing new, such as one that turned out to be another
        server's, had 0.
        """
        running = self._running.pop(job_id)
        client = running.assignment.job.client
        self._charge(client, seconds - running.expected)
        if seconds > 0:
            self._expected += _SMOOTHING * (seconds - self._expected)
        self._clients[client].running -= 1
        self._retire(client)

    def waits(self, job_id: str) -> bool:
        """Whether the job waits."""
        return job_id in self._waiting

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def waiting(self) -> set[str]:
        """The jobs that wait."""
        return set(self._waiting)

    def shares(self) -> dict[str, dict[str, float]]:
        """For each client with jobs: its weight, its share of the devices from 0 to 1 while all of
        these have jobs, and how many of its jobs wait and run."""
        active = {name: one for name, one in self._clients.items() if one.waiting or one.running}
        whole = sum(self._weight(name) for name in active)
        return {
            name: {
                "weight": self._weight(name),
                "share": self._weight(name) / whole,
                "waiting": client.waiting,
                "running": client.running,
            }
            for name, client in active.items()
        }

    def _in_order(self) -> Iterator[QueuedJob]:
        for priority in sorted(self._queues, reverse=True):
            queues = self._queues[priority]
            # The oldest job decides between clients that have had as much.
            order = [
                (self._clients[client].used, queue[0].number, client)
                for client, queue in queues.items()
            ]
            heapq.heapify(order)
            while order:
                yield from queues[heapq.heappop(order)[2]]

    def _room(self, device: DeviceState) -> _Room | None:
        if not device.ready:
            return None
        here = [
            running.assignment.job.memory_bytes
            for running in self._running.values()
            if running.assignment.device == device.index
        ]
        return _Room(
            index=device.index,
            jobs=len(here),
            slots=device.capacity - len(here),
            memory=math.inf if device.memory_bytes is None else device.memory_bytes,
            used=sum(here),
        )

    def _assign(self, job: QueuedJob, room: _Room) -> Assignment:
        self._take(job)
        assignment = Assignment(job, room.index)
        self._running[job.job_id] = _Running(assignment, self._expected)
        self._clients[job.client].running += 1
        self._charge(job.client, self._expected)
        return assignment

    def _take(self, job: QueuedJob) -> None:
        del self._waiting[job.job_id]
        queues = self._queues[job.priority]
        queue = queues[job.client]
        at = bisect_left(queue, job.number, key=_number)
        while queue[at].job_id != job.job_id:
            at += 1
        del queue[at]
        if not queue:
            del queues[job.client]
        if not queues:
            del self._queues[job.priority]
        self._clients[job.client].waiting -= 1

    def _charge(self, client: str, seconds: float) -> None:
        """Books time to a client. The level rises as the mean of all active clients does."""
        self._clients[client].used += seconds / self._weight(client)
        self._level += seconds / sum(
            self._weight(name) for name, one in self._clients.items() if one.waiting or one.running
        )

    def _active(self, name: str) -> _Client:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = _Client(self._level)
        elif not (client.waiting or client.running):
            client.used = max(client.used, self._level)
        return client

    def _retire(self, name: str) -> None:
        """Forgets the clients without jobs that have nothing to pay back."""
        client = self._clients[name]
        if client.waiting or client.running:
            return
        for idle in [
            other
            for other, one in self._clients.items()
            if not (one.waiting or one.running) and one.used <= self._level
        ]:
            del self._clients[idle]

    def _weight(self, client: str) -> float:
        return self._weights.get(client, 1.0)
