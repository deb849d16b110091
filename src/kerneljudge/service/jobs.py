"""The service: accepts jobs, has them judged, and tells what became of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from kerneljudge.schema import CompareRequest, JobRequest, memory_bytes
from kerneljudge.service.dispatcher import Dispatcher
from kerneljudge.service.errors import DatabaseUnusable, Draining, QueueFull, TooMuchMemory
from kerneljudge.service.evaluator import DeviceState, Evaluator
from kerneljudge.service.metrics import Metrics
from kerneljudge.service.records import (
    Job,
    JobEvent,
    JobFilter,
    JobPage,
    Submission,
    SubmittedKernel,
)
from kerneljudge.service.settings import Settings
from kerneljudge.service.store import JobStore, StoreLimits
from kerneljudge.service.watching import Watchers

__all__ = ["CLEANUP_AGE", "JobService"]

CLEANUP_AGE = 300.0
"""Seconds since the end of a job after which a cleanup by hand drops it."""

_LOG = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
# Between two looks at jobs that other servers run and that somebody here waits for.
_POLL_SECONDS = 0.25
_STOPPING = "the server is stopping"
# What clients of a full queue are told to wait: until a part of it is gone, within these seconds.
_GONE_PART = 0.1
_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 300.0

Weights = Callable[[], Awaitable[Mapping[str, float]]]


class JobService:
    """Accepts jobs and runs them; an asynchronous context manager.

    An accepted job is in the store: it goes on when its client goes away, when its judge dies, and
    when the server does. All methods belong to the event loop on which `start` ran.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        store: JobStore,
        settings: Settings,
        server: str | None = None,
        clock: Callable[[], float] = time.time,
        weights: Weights | None = None,
        ended: Callable[[Job], None] | None = None,
    ) -> None:
        """Serves from the `evaluator` and the `store`, which the caller starts and stops.

        `server` is the name in leases, to which a random suffix is added; the pod's unless given.
        `weights` says what share each client has; all the same unless given. `ended` is called
        with each job that ends here.
        """
        self._evaluator = evaluator
        self._store = store
        self._settings = settings
        self._clock = clock
        self._weights = weights
        self._watchers = Watchers()
        self.metrics = Metrics(clock)
        """Counts and times of what this server did."""
        self.draining = False
        """Whether it is stopping and takes no more jobs."""
        self.server = f"{server or settings.pod_name}-{secrets.token_hex(4)}"
        """The name in its leases, and in the jobs that it judges."""
        self._dispatcher = Dispatcher(
            evaluator,
            store,
            settings,
            server=self.server,
            clock=clock,
            metrics=self.metrics,
            watchers=self._watchers,
            ended=ended,
        )
        self._background: list[asyncio.Task[None]] = []
        self._accepting: set[asyncio.Task[list[tuple[Job, bool]]]] = set()

    async def start(self) -> None:
        """Takes up what waits, and what servers that died have left. Raises `DatabaseUnusable`."""
        if self._background or self.draining:
            return
        await self._read_weights()
        await self._dispatcher.open()
        every = {
            "heartbeat": (self._settings.lease_seconds / 3, self._heartbeat),
            "tick": (_TICK_SECONDS, self._tick),
            "cleanup": (self._settings.cleanup_interval, self._clean),
        }
        if not self._store.exclusive:
            every["poll"] = (_POLL_SECONDS, self._poll)
        self._background = [
            asyncio.create_task(self._repeat(seconds, call), name=name)
            for name, (seconds, call) in every.items()
        ]

    async def stop(self, grace: float = 0) -> None:
        """Takes no more jobs, waits `grace` seconds for those that run, and puts the rest back
        into the queue for the next server. Whoever waits for a job that has not ended then is
        released."""
        self.draining = True
        self._release_watchers()
        await self._dispatcher.drain(grace)
        self._release_watchers()
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        self._background = []

    async def __aenter__(self) -> Self:
        """Starts."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops, without grace."""
        await self.stop()

    async def submit(self, submission: Submission, limits: StoreLimits | None = None) -> Job:
        """Accepts a job, and returns when it is stored; or the stored one with the same
        idempotency key.

        Raises `QueueFull`, `QuotaExceeded`, `IdempotencyConflict`, `TooMuchMemory`, `Draining`.
        `limits` are the settings' and the submission's own unless given.
        """
        ((job, _),) = await self.submit_all([submission], limits)
        return job

    async def submit_all(
        self, submissions: Sequence[Submission], limits: StoreLimits | None = None
    ) -> list[tuple[Job, bool]]:
        """Accepts all of these jobs of one client, or none; as `submit`. For each, in the same
        order: the job, and whether it is new."""
        if self.draining:
            raise Draining(f"{_STOPPING} and takes no more jobs; send it again in a while")
        if not submissions:
            return []
        if limits is None:
            limits = StoreLimits(self._settings.max_queued, submissions[0].max_unfinished)
        given = [(self._job(submission), submission.request) for submission in submissions]
        # A caller that is cancelled meanwhile must not leave jobs that are stored and that nobody
        # hands out.
        accepting = asyncio.create_task(self._accept(given, limits))
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        return await asyncio.shield(accepting)

    async def _accept(
        self, given: Sequence[tuple[Job, JobRequest]], limits: StoreLimits
    ) -> list[tuple[Job, bool]]:
        try:
            stored = await self._store.create(given, limits)
        except QueueFull as full:
            full.retry_after = self._retry_after(len(given), full.retry_after)
            raise
        new = [job for job, is_new in stored if is_new]
        for job in new:
            self.metrics.submitted()
            _LOG.info("submitted by %s: %s", job.client, job.kind, extra={"job_id": job.job_id})
        self._dispatcher.add(new)
        return stored

    def _retry_after(self, count: int, unknown: float) -> float:
        """Seconds in which as many jobs end as are to be submitted, and a part of those that
        wait, since others will try as well; `unknown` where none has ended lately."""
        rate = self.metrics.recent_rate
        if not rate:
            return unknown
        ending = max(count, _GONE_PART * self._dispatcher.waiting)
        return min(max(ending / rate, _SHORTEST_RETRY), _LONGEST_RETRY)

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job, once it has ended, or as it stands after `timeout` seconds.

        Raises `KeyError` for an unknown one, and `Draining` where this server stops before the
        job has ended; it goes on then at the next server. Cancelling the wait does not cancel the
        job.
        """
        with self._watchers.watch(job_id) as watch:
            if not self._dispatcher.knows(job_id):
                job = await self._known(job_id)
                if job.state.finished:
                    return job
            if self.draining and not self._dispatcher.holds(job_id):
                self._watchers.release(job_id)
            ended, _ = await asyncio.wait([watch.ended], timeout=timeout)
            if not ended:
                return await self._known(job_id)
            return watch.ended.result() or await self._left(job_id)

    async def get(self, job_id: str) -> Job | None:
        """The job as it stands, or None for an unknown one."""
        return await self._store.get(job_id)

    async def request(self, job_id: str) -> JobRequest | None:
        """What was asked for, or None for an unknown job."""
        return await self._store.request(job_id)

    async def page(self, matching: JobFilter, limit: int, cursor: str | None = None) -> JobPage:
        """One page of the jobs that match, newest first. Raises ValueError for a cursor that is
        none."""
        return await self._store.page(matching, limit, cursor)

    async def cancel(self, job_id: str, reason: str = "cancelled by its client") -> Job | None:
        """Cancels a job that has not ended; if it runs, returns when its device is free.

        The job as it then is; None for an unknown one. What another server runs ends a little
        later.
        """
        return await self._dispatcher.cancel(job_id, reason)

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happened to a job after the event of that number, and what happens to it as it
        does; ends with the job.

        Raises `KeyError` for an unknown job, and `Draining` where this server stops first.
        """
        with self._watchers.watch(job_id) as watch:
            # Without its report, which listings leave out.
            if job_id not in await self._store.get_many([job_id]):
                raise KeyError(job_id)
            while True:
                changed = watch.changed
                told = await self._store.events(job_id, after)
                for event in told:
                    after = event.number
                    yield event
                    if event.state.finished:
                        return
                if not told:
                    jobs = await self._store.get_many([job_id])
                    if job_id not in jobs or jobs[job_id].state.finished:
                        return
                if self.draining and not self._dispatcher.holds(job_id):
                    raise Draining(f"{_STOPPING}; the job goes on when the next one starts")
                here = self._store.exclusive or self._dispatcher.holds(job_id)
                await asyncio.wait([changed], timeout=None if here else _POLL_SECONDS)

    async def cleanup(self, older_than: float = CLEANUP_AGE) -> int:
        """Drops the jobs that ended at least `older_than` seconds ago; says how many."""
        return await self._store.remove_finished(self._clock() - older_than)

    async def check(self) -> None:
        """Raises `Draining` or `DatabaseUnusable` where no job can be taken."""
        if self.draining:
            raise Draining(_STOPPING)
        await self._store.check()

    def devices(self) -> list[DeviceState]:
        """Every configured device."""
        return self._evaluator.devices()

    def queue(self) -> dict[str, Any]:
        """What waits and runs here: `waiting`, `running`; `builders` with their size and how many
        are busy and waited for; and for each client with jobs its weight, share and jobs."""
        return {
            "waiting": self._dispatcher.waiting,
            "running": self._dispatcher.running,
            "builders": self._evaluator.builders(),
            "clients": self._dispatcher.shares(),
        }

    async def job_stats(self, key_id: str | None = None) -> dict[str, Any]:
        """The group `job_stats`: total_jobs, by_status, average_age in seconds; of one key, if
        given."""
        counts = await self._store.counts(key_id)
        return {
            "total_jobs": counts.total,
            "by_status": {state.value: count for state, count in counts.by_state.items()},
            "average_age": counts.average_age,
        }

    async def stats(self) -> dict[str, Any]:
        """Every group of `/stats`; see `Metrics.as_dict` and `queue`."""
        unfinished = self._dispatcher.waiting + self._dispatcher.running
        return {
            "job_stats": await self.job_stats(),
            **self.metrics.as_dict(self.devices(), unfinished),
            "queue": self.queue(),
        }

    def _job(self, submission: Submission) -> Job:
        request = submission.request
        needed = memory_bytes(request)
        self._check_memory(needed)
        now = self._clock()
        seconds = self._settings.max_deadline
        if submission.deadline is not None:
            seconds = min(submission.deadline, seconds)
        return Job(
            job_id=str(uuid.uuid4()),
            kind="compare" if isinstance(request, CompareRequest) else "evaluate",
            kernels={
                side: SubmittedKernel(kernel.kernel_type, kernel.metadata or {})
                for side, kernel in request.kernels.items()
            },
            created_at=now,
            client=submission.client,
            key_id=submission.key_id,
            priority=submission.priority,
            deadline_at=now + seconds,
            memory_bytes=needed,
            idempotency_key=submission.idempotency_key,
        )

    def _check_memory(self, needed: int) -> None:
        sizes = [device.memory_bytes for device in self.devices()]
        known = [size for size in sizes if size is not None]
        if known and len(known) == len(sizes) and needed > max(known):
            raise TooMuchMemory(
                f"the contract's tensors take {needed / 2**30:.1f} GiB of device memory, with a "
                "copy for the judge and one for each kernel; the largest device here has "
                f"{max(known) / 2**30:.1f} GiB. Make them smaller"
            )

    async def _known(self, job_id: str) -> Job:
        job = await self._store.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    async def _left(self, job_id: str) -> Job:
        """For a waiter whom this server cannot tell the job's end."""
        job = await self._known(job_id)
        if job.state.finished:
            return job
        raise Draining(
            f"{_STOPPING}; job {job_id} is kept, and goes on when the next one starts: ask for it "
            "again then"
        )

    def _release_watchers(self) -> None:
        for job_id in self._watchers.watched():
            if not self._dispatcher.holds(job_id):
                self._watchers.release(job_id)

    async def _repeat(self, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
        """Calls again and again. No failure of one call keeps the next from being made."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await call()
            except DatabaseUnusable as error:
                self._dispatcher.database_lost(error)
            except Exception:
                _LOG.exception("%s failed; it is tried again", call.__name__)

    async def _heartbeat(self) -> None:
        await self._dispatcher.renew()
        await self._dispatcher.recover()
        if self._store.exclusive:
            # For a job that a failure has dropped from memory alone. Where servers share the queue,
            # every tick reads it.
            await self._dispatcher.read_queue()

    async def _tick(self) -> None:
        await self._dispatcher.end_overdue()
        if not self._store.exclusive:
            await self._dispatcher.look_for_cancellations()
            await self._dispatcher.read_queue()
        self._dispatcher.database_back()
        await self._read_weights()

    async def _poll(self) -> None:
        elsewhere = [
            job_id for job_id in self._watchers.watched() if not self._dispatcher.holds(job_id)
        ]
        if not elsewhere:
            return
        found = await self._store.get_many(elsewhere)
        for job_id in elsewhere:
            if job_id not in found:
                self._watchers.release(job_id)
            elif found[job_id].state.finished and (job := await self._store.get(job_id)):
                self._watchers.ended(job)

    async def _clean(self) -> None:
        removed = await self.cleanup(self._settings.job_retention)
        if removed:
            _LOG.info("dropped %d jobs that ended %g s ago", removed, self._settings.job_retention)

    async def _read_weights(self) -> None:
        if self._weights is not None:
            self._dispatcher.set_weights(await self._weights())
