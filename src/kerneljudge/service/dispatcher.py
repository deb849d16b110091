"""Takes queued jobs under leases, has them judged, and writes down what becomes of them."""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from kerneljudge.schema import FaultKind, JobReport, JobRequest, Phase, Verdict
from kerneljudge.service.errors import DatabaseUnusable
from kerneljudge.service.evaluator import Evaluator, EvaluatorUnavailable
from kerneljudge.service.metrics import ON_DEVICE, Metrics, device_seconds
from kerneljudge.service.records import Job, JobState, Lease, QueuedJob
from kerneljudge.service.scheduler import Scheduler
from kerneljudge.service.settings import Settings
from kerneljudge.service.store import JobStore
from kerneljudge.service.watching import Watchers

__all__ = ["Dispatcher"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Between two tries to write to a database that does not answer.
_RETRY_SECONDS = 0.2
# A queue longer than this is taken up in parts.
_QUEUE_LIMIT = 100_000
_CANCELLED = "cancelled by its client"

_STATE = {
    Phase.READ: JobState.COMPILING,
    Phase.BUILD: JobState.COMPILING,
    Phase.LOAD: JobState.COMPILING,
    Phase.CHECK: JobState.VALIDATING,
    Phase.PROFILE: JobState.PROFILING,
    Phase.DONE: JobState.PROFILING,
}


class _Cause(enum.Enum):
    """Why a job is taken from its judge."""

    LOST = enum.auto()
    """Another server has it, or may have."""
    CANCELLED = enum.auto()
    """Its client does not want it any more."""
    OVERDUE = enum.auto()
    """Its deadline has passed."""
    STOPPING = enum.auto()
    """The server stops; another, or the next, is to resume it."""


@dataclass(eq=False)
class _Held:
    """A job that this server holds by a lease, or is about to."""

    queued: QueuedJob
    device: int
    device_name: str
    lease: Lease
    job: Job | None = None
    """As it was last stored; None until it is claimed."""
    judging: asyncio.Task[JobReport] | None = None
    cause: _Cause | None = None
    reason: str = ""
    pending: dict[Phase, tuple[float, JobReport]] = field(default_factory=dict)
    """Partial reports that are to be stored, the last of each phase, with when the phase began."""

    @property
    def job_id(self) -> str:
        return self.queued.job_id

    @property
    def extra(self) -> dict[str, str]:
        """What the log says with every line."""
        return {"job_id": self.job_id}

    def interrupt(self, cause: _Cause, reason: str) -> None:
        """Takes it from its judge. A lost lease outweighs every other cause."""
        if self.cause is None or cause is _Cause.LOST:
            self.cause, self.reason = cause, reason
            if self.judging is not None:
                self.judging.cancel()


class Dispatcher:
    """Runs the queue of one server. Belongs to one event loop, and so does the evaluator."""

    def __init__(
        self,
        evaluator: Evaluator,
        store: JobStore,
        settings: Settings,
        *,
        server: str,
        clock: Callable[[], float],
        metrics: Metrics,
        watchers: Watchers,
        ended: Callable[[Job], None] | None = None,
    ) -> None:
        """Holds no job, and hands out none before `open`. Its leases bear the name `server`.

        `ended` is called with each job that ends here.
        """
        self._evaluator = evaluator
        self._store = store
        self._settings = settings
        self._server = server
        self._clock = clock
        self._metrics = metrics
        self._watchers = watchers
        self._ended = ended
        self._scheduler = Scheduler()
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False
        self._database_lost = False
        evaluator.on_change(self.dispatch)

    def knows(self, job_id: str) -> bool:
        """Whether the job waits or runs here, and so has not ended."""
        return job_id in self._held or self._scheduler.waits(job_id)

    def holds(self, job_id: str) -> bool:
        """Whether the job runs here."""
        return job_id in self._held

    @property
    def running(self) -> int:
        """How many jobs run here."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many jobs wait, as far as this server knows."""
        return len(self._scheduler)

    def shares(self) -> dict[str, dict[str, float]]:
        """See `Scheduler.shares`."""
        return self._scheduler.shares()

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """See `Scheduler.set_weights`."""
        self._scheduler.set_weights(weights)

    async def open(self) -> None:
        """Takes over what servers that died have left, and begins to hand out jobs."""
        self._open = True
        await self.recover(all_leases=self._store.exclusive)
        await self.read_queue()

    async def drain(self, grace: float) -> None:
        """Hands out no more, waits `grace` seconds for what runs, and puts the rest back."""
        self._open = False
        if self._tasks and grace > 0:
            await asyncio.wait(self._tasks, timeout=grace)
        for held in self._held.values():
            held.interrupt(_Cause.STOPPING, "its server was stopped")
        if self._tasks:
            await asyncio.wait(self._tasks)

    def add(self, jobs: Iterable[Job]) -> None:
        """Lets new jobs wait for their turn."""
        for job in jobs:
            self._scheduler.add(
                QueuedJob(
                    job_id=job.job_id,
                    number=job.number,
                    client=job.client,
                    priority=job.priority,
                    memory_bytes=job.memory_bytes,
                    deadline_at=job.deadline_at,
                )
            )
        self.dispatch()

    def dispatch(self) -> None:
        """Hands out whatever can go now."""
        if not self._open or self._database_lost:
            return
        devices = self._evaluator.devices()
        names = {device.index: device.name for device in devices}
        while (assignment := self._scheduler.next(devices)) is not None:
            lease = Lease(
                self._server,
                secrets.token_hex(16),
                self._clock() + self._settings.lease_seconds,
            )
            held = _Held(assignment.job, assignment.device, names[assignment.device], lease)
            self._held[held.job_id] = held
            task = asyncio.create_task(self._run(held), name=f"job {held.job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def read_queue(self) -> None:
        """Brings what is known of the queue in line with the store."""
        known = self._scheduler.waiting()
        queued = await self._store.queued(_QUEUE_LIMIT)
        if len(queued) < _QUEUE_LIMIT:
            for job_id in known - {job.job_id for job in queued}:
                self._scheduler.discard(job_id)
        for job in queued:
            self._scheduler.add(job)
        self.dispatch()

    async def recover(self, *, all_leases: bool = False) -> None:
        """Takes over the jobs of servers that died: those with an expired lease, or all."""
        taken = await self._store.recover(
            self._clock(), self._settings.max_attempts, all_leases=all_leases
        )
        for job in taken:
            extra = {"job_id": job.job_id}
            if job.state.finished:
                _LOG.error("its server died; it is not tried again: %s", job.error, extra=extra)
                self._end(job)
            else:
                _LOG.warning("its server died; it is queued again", extra=extra)
                self._metrics.requeued()
                self._watchers.changed(job.job_id)
        if taken:
            await self.read_queue()

    async def end_overdue(self) -> None:
        """Ends the jobs whose deadline has passed, waiting or running."""
        now = self._clock()
        for held in self._held.values():
            deadline = held.queued.deadline_at
            if deadline is not None and deadline <= now and held.job is not None:
                held.interrupt(
                    _Cause.OVERDUE,
                    "deadline: the job did not end within "
                    f"{deadline - held.job.created_at:.6g} s of its submission",
                )
        for job in await self._store.end_overdue(now):
            _LOG.warning("ended while it waited: %s", job.error, extra={"job_id": job.job_id})
            self._scheduler.discard(job.job_id)
            self._end(job)

    async def renew(self) -> None:
        """Extends every lease; lets go of jobs whose lease is lost or that are to be cancelled."""
        held = {job_id: one for job_id, one in self._held.items() if one.job is not None}
        if not held:
            return
        expires_at = self._clock() + self._settings.lease_seconds
        try:
            renewals = await self._store.renew(
                {job_id: one.lease.token for job_id, one in held.items()}, expires_at
            )
        except DatabaseUnusable:
            for one in held.values():
                if one.lease.expires_at <= self._clock():
                    one.interrupt(_Cause.LOST, "the database was out of reach for too long")
            raise
        for job_id, renewal in renewals.items():
            one = held[job_id]
            if not renewal.held:
                one.interrupt(_Cause.LOST, "it is another server's now")
                continue
            one.lease = replace(one.lease, expires_at=expires_at)
            if renewal.cancel_requested:
                one.interrupt(_Cause.CANCELLED, _CANCELLED)

    async def look_for_cancellations(self) -> None:
        """Cancels what other servers were asked to cancel."""
        held = dict(self._held)
        if held:
            for job_id, job in (await self._store.get_many(held)).items():
                if job.cancel_requested:
                    held[job_id].interrupt(_Cause.CANCELLED, _CANCELLED)

    async def cancel(self, job_id: str, reason: str) -> Job | None:
        """Cancels a job: at once if it waits, and if it runs here, as soon as its judge has let go
        of it; another server is asked to. The job as it is then; None for an unknown one."""
        with self._watchers.watch(job_id) as watch:
            job = await self._store.cancel(job_id, reason, self._clock())
            if self._scheduler.waits(job_id) and job is not None and job.state.finished:
                self._scheduler.discard(job_id)
                self._end(job)
            self._watchers.changed(job_id)
            held = self._held.get(job_id)
            if job is None or job.state.finished or held is None:
                return job
            held.interrupt(_Cause.CANCELLED, reason)
            await asyncio.wait([watch.ended])
            return watch.ended.result() or await self._store.get(job_id)

    def database_lost(self, error: DatabaseUnusable) -> None:
        """Hands out no more jobs until the database is back."""
        if not self._database_lost:
            _LOG.error("the database does not answer; jobs wait until it does: %s", error)
        self._database_lost = True

    def database_back(self) -> None:
        """Goes on, if the database was lost."""
        if self._database_lost:
            _LOG.warning("the database answers again")
            self._database_lost = False
            self.dispatch()

    async def _run(self, held: _Held) -> None:
        """One job, from its claim to whatever becomes of it."""
        again = False
        try:
            request = await self._claim(held)
            if request is not None:
                if held.cause is None:
                    await self._judge(held, request)
                again = await self._conclude(held)
        except DatabaseUnusable as error:
            self.database_lost(error)
            again = held.job is None
        except Exception:
            # A mistake of the service's own must end this job's turn, and no other's.
            _LOG.exception("given up; it is taken up again after its lease", extra=held.extra)
        finally:
            seconds = self._seconds(held)
            del self._held[held.job_id]
            self._scheduler.ended(held.job_id, seconds)
            if held.job is not None and held.job.acquired_at is not None:
                self._metrics.released(held.device, seconds)
            if again:
                self._scheduler.add(held.queued)
            self.dispatch()

    async def _claim(self, held: _Held) -> JobRequest | None:
        claimed = await self._store.claim(held.job_id, held.lease, self._clock())
        if claimed is None:
            # Another server has it, or it has ended: it was cancelled a moment ago, or the database
            # did not say that its end was stored.
            job = await self._store.get(held.job_id)
            if job is None or not job.state.finished:
                return None
            if job.state is JobState.CANCELLED and job.server in (None, self._server):
                self._end(job)
            else:
                self._watchers.ended(job)
            return None
        held.job, request = claimed
        if held.job.attempts > 1:
            self._metrics.resumed()
        _LOG.info("attempt %d on %s", held.job.attempts, held.device_name, extra=held.extra)
        self._watchers.changed(held.job_id)
        return request

    async def _judge(self, held: _Held, request: JobRequest) -> None:
        """Has it judged, and stores each phase's partial result as it comes."""
        news = asyncio.Event()

        def progress(report: JobReport) -> None:
            began, _ = held.pending.get(report.phase, (self._clock(), report))
            held.pending[report.phase] = began, report
            news.set()

        judging = asyncio.create_task(
            self._evaluator.judge(held.job_id, request, progress, held.device)
        )
        held.judging = judging
        judging.add_done_callback(lambda _: news.set())
        try:
            while held.pending or not judging.done():
                await news.wait()
                news.clear()
                while held.pending and held.cause is not _Cause.LOST:
                    await self._keep(held)
                if held.cause is _Cause.LOST:
                    held.pending.clear()
        finally:
            if not judging.done():
                judging.cancel()
                await asyncio.wait([judging])

    async def _keep(self, held: _Held) -> None:
        """Stores the last of the partial reports that came, and what phases there were before."""
        job = held.job
        assert job is not None
        stored = job.report.phase if job.report is not None else None
        passed: list[tuple[JobState, Phase, float]] = []
        for phase, (began, report) in held.pending.items():
            job = replace(
                job,
                state=_STATE[phase],
                report=report,
                started_at=began if job.started_at is None else job.started_at,
            )
            if job.acquired_at is None and phase in ON_DEVICE:
                job = replace(job, acquired_at=began)
                self._metrics.acquired(job)
            if phase is not stored:
                passed.append((job.state, phase, began))
        held.pending.clear()
        held.job = job
        assert job.report is not None
        try:
            kept = await self._store.progress(
                held.job_id,
                held.lease.token,
                job.state,
                job.report,
                device=held.device,
                device_name=held.device_name,
                started_at=job.started_at,
                acquired_at=job.acquired_at,
                now=began,
                passed=[one for one in passed if one[1] is not job.report.phase],
            )
        except DatabaseUnusable as error:
            # The next report, or the last, says all that this one does.
            self.database_lost(error)
            return
        if kept:
            self._watchers.changed(held.job_id)
        else:
            held.interrupt(_Cause.LOST, "it is another server's now")

    async def _conclude(self, held: _Held) -> bool:
        """Stores how it ended, or puts it back. Whether it may wait for another turn: so may one
        whose lease is lost, which this server itself may have queued again, its lease having run
        out. The next claim tells."""
        if held.cause is _Cause.LOST:
            _LOG.warning("given up: %s", held.reason, extra=held.extra)
            return True
        report: JobReport | None = None
        try:
            if held.judging is not None:
                report = held.judging.result()
        except asyncio.CancelledError:
            held.reason = held.reason or "its judge let go of it"
        except EvaluatorUnavailable as error:
            held.reason = held.reason or str(error)
        except Exception as error:
            # Whatever it is, it is no kernel's fault: the job fails and says so.
            _LOG.exception("the evaluator failed", extra=held.extra)
            return await self._fail(held, f"the evaluator failed: {type(error).__name__}: {error}")
        if report is not None:
            # Whatever it was interrupted for, it has its verdict.
            failure = _failure(report)
            state = JobState.COMPLETED if failure is None else JobState.FAILED
            return await self._finish(held, state, report, failure)
        if held.cause is _Cause.CANCELLED:
            return await self._finish(held, JobState.CANCELLED, None, held.reason)
        if held.cause is _Cause.OVERDUE:
            return await self._fail(held, held.reason)
        attempts = held.job.attempts if held.job is not None else 0
        if held.cause is None and attempts >= self._settings.max_attempts:
            return await self._fail(
                held, f"given up after {attempts} attempts, of which the last: {held.reason}"
            )
        return await self._release(held)

    async def _fail(self, held: _Held, error: str) -> bool:
        report = held.job.report if held.job is not None else None
        if report is not None:
            # What is known stays, but a partial report's verdict is none.
            report = report.model_copy(update={"verdict": Verdict.INTERNAL_ERROR, "error": error})
        return await self._finish(held, JobState.FAILED, report, error)

    async def _finish(
        self, held: _Held, state: JobState, report: JobReport | None, error: str | None
    ) -> bool:
        async def finish() -> Job | None:
            return await self._store.finish(
                held.job_id,
                held.lease.token,
                state,
                report,
                error,
                device=held.device,
                device_name=held.device_name,
                now=self._clock(),
            )

        job = await self._insist(held, finish)
        if job is None:
            _LOG.warning("its end is not stored: the lease is lost", extra=held.extra)
            return True
        self._end(job)
        return False

    async def _release(self, held: _Held) -> bool:
        async def release() -> bool:
            return await self._store.release(
                held.job_id,
                held.lease.token,
                held.reason,
                self._clock(),
                attempted=held.cause is not _Cause.STOPPING,
            )

        if not await self._insist(held, release):
            _LOG.warning("not queued again: the lease is lost", extra=held.extra)
            return True
        _LOG.warning("queued again: %s", held.reason, extra=held.extra)
        self._metrics.requeued()
        self._watchers.changed(held.job_id)
        return True

    async def _insist(self, held: _Held, write: Callable[[], Awaitable[_T]]) -> _T | None:
        """Writes, again and again while the database does not answer and the lease may hold."""
        while True:
            try:
                return await write()
            except DatabaseUnusable as error:
                self.database_lost(error)
            if held.cause is _Cause.LOST or held.lease.expires_at <= self._clock():
                return None
            await asyncio.sleep(_RETRY_SECONDS)

    def _end(self, job: Job) -> None:
        """Tells everyone that a job has ended."""
        verdict = f": {job.verdict}" if job.verdict is not None else ""
        _LOG.info("%s%s", job.state, verdict, extra={"job_id": job.job_id})
        self._metrics.finished(job)
        self._watchers.ended(job)
        if self._ended is not None:
            self._ended(job)

    def _seconds(self, held: _Held) -> float:
        """How long it used its device: what its report says, or, where it was taken from its
        judge, the time that it had it."""
        judging = held.judging
        report = None
        if judging is not None and judging.done() and not judging.cancelled():
            report = judging.result() if judging.exception() is None else None
        if report is not None:
            return device_seconds(report)
        if held.job is None or held.job.acquired_at is None:
            return 0.0
        return max(self._clock() - held.job.acquired_at, 0.0)


def _failure(report: JobReport) -> str | None:
    """Why a judged job counts as failed, or None: it ran out of time, or the judge failed."""
    if report.verdict is Verdict.INTERNAL_ERROR:
        return report.error or "the judge failed without saying why"
    fault = report.fault
    if fault is not None and fault.kind is FaultKind.TIMEOUT:
        return f"Job timeout: the {fault.side} did not end in time ({fault.phase}): {fault.message}"
    return None
