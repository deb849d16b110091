"""The judges of this machine, one process a device, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kerneljudge.judging import host
from kerneljudge.judging.caches import evict_caches
from kerneljudge.judging.protocol import (
    BuildEnded,
    BuildGranted,
    BuildWanted,
    Cancel,
    Done,
    Judge,
    JudgeConfiguration,
    Progress,
    Started,
)
from kerneljudge.schema import JobReport, JobRequest, Verdict
from kerneljudge.service.builders import BuilderPool
from kerneljudge.service.evaluator import DeviceHealth, DeviceState, EvaluatorUnavailable
from kerneljudge.service.gpus import Device, choose
from kerneljudge.service.judge_process import JudgeProcess, Received
from kerneljudge.service.self_test import SELF_TEST, SELF_TEST_WITH_TRITON
from kerneljudge.service.settings import Settings

__all__ = ["Fleet"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a judge that ended is replaced, doubled after each failure in a row."""
_MOST_DOUBLINGS = 16
_LONGEST_QUARANTINE = 600.0
_CANCEL_SECONDS = 30.0
"""How long a judge may take to let go of a job, before it is killed."""
_SELF_TEST_SECONDS = 300.0
_HOST_MEMORY_SHARE = 0.5


@dataclass
class _Pending:
    """A job that a judge has."""

    progress: Callable[[JobReport], None]
    done: asyncio.Future[JobReport | None]

    def fail(self, error: Exception) -> None:
        """Ends it without a report."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass
class _Member:
    """One device, and its judge."""

    index: int
    device: Device
    health: DeviceHealth = DeviceHealth.STARTING
    reason: str | None = None
    """Why it takes no jobs."""
    judge: JudgeProcess | None = None
    started: Started | None = None
    """What its judge last said of it."""
    jobs: dict[str, _Pending] = field(default_factory=dict)
    failures: int = 0
    """In a row: judges that ended and reports of internal errors, since the last other report."""
    quarantine: float = 0.0
    """Seconds of it, the next time."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether it has become ready or failed for the first time."""
    supervisor: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The device's, such as `cuda:0`."""
        return self.device.name


class Fleet:
    """Implements `Evaluator` over real judges. Belongs to the event loop that starts it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._members = [
            _Member(index, device) for index, device in enumerate(choose(settings.devices))
        ]
        self._builders = BuilderPool(settings.builders or host.cpus())
        self._listeners: list[Callable[[], None]] = []
        self._stopping = asyncio.Event()
        self._evicting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when every judge takes jobs, or has failed to; the latter are quarantined.

        Raises `EvaluatorUnavailable` if none takes any.
        """
        self._settings.cache_dir.mkdir(parents=True, exist_ok=True)
        self._evicting = asyncio.create_task(self._evict())
        for member in self._members:
            member.supervisor = asyncio.create_task(self._supervise(member))
        for member in self._members:
            await member.tried.wait()
        if not any(member.health is DeviceHealth.READY for member in self._members):
            reasons = "; ".join(f"{member.name}: {member.reason}" for member in self._members)
            await self.stop()
            raise EvaluatorUnavailable(
                f"no device could be started ({reasons}); what the judges said is above"
            )

    async def stop(self) -> None:
        """Ends every judge, and with it its zygote and runners."""
        self._stopping.set()
        for member in self._members:
            if member.judge is not None:
                member.judge.stop()
        await asyncio.gather(*(member.supervisor for member in self._members if member.supervisor))
        if self._evicting is not None:
            await self._evicting

    def devices(self) -> list[DeviceState]:
        """Every configured device."""
        return [
            DeviceState(
                index=member.index,
                name=member.name,
                ready=member.health is DeviceHealth.READY,
                environment=member.started.environment if member.started else None,
                jobs=len(member.jobs),
                capacity=self._settings.jobs_per_device,
                memory_bytes=member.started.memory_bytes if member.started else None,
                health=member.health,
                reason=member.reason,
                layers=member.started.layers if member.started else [],
            )
            for member in self._members
        ]

    def builders(self) -> dict[str, int]:
        """How many builds may run at once (`size`), how many do (`busy`), how many `waiting`."""
        pool = self._builders
        return {"size": pool.size, "busy": pool.busy, "waiting": pool.waiting}

    def on_change(self, call: Callable[[], None]) -> None:
        """Has `call` called, on the event loop, whenever a device becomes ready or unready."""
        self._listeners.append(call)

    async def judge(
        self,
        job_id: str,
        request: JobRequest,
        progress: Callable[[JobReport], None],
        device: int,
    ) -> JobReport:
        """Judges one job on a device, by its index.

        Raises `EvaluatorUnavailable` where the device takes no jobs, or its judge ended during
        this one. A cancelled call returns when the judge has let go of the job.
        """
        member = self._members[device]
        if member.health is not DeviceHealth.READY or member.judge is None:
            raise EvaluatorUnavailable(f"{member.name} takes no jobs now: {member.reason}")
        judge = member.judge
        try:
            return await self._judge(member, judge, job_id, request, progress)
        finally:
            self._end_if_unwanted(member, judge)

    async def _judge(
        self,
        member: _Member,
        judge: JudgeProcess,
        job_id: str,
        request: JobRequest,
        progress: Callable[[JobReport], None],
    ) -> JobReport:
        done: asyncio.Future[JobReport | None] = asyncio.get_running_loop().create_future()
        pending = member.jobs[job_id] = _Pending(progress, done)
        judge.send(Judge(job_id=job_id, request=request), pending.fail)
        try:
            await asyncio.wait({done})
        except asyncio.CancelledError:
            pending.progress = lambda _: None
            withdrawing = asyncio.create_task(self._withdraw(member, judge, job_id, done))
            while not withdrawing.done():
                # Cancelled again or not: it ends in its own time, which is bounded.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({withdrawing})
            raise
        finally:
            del member.jobs[job_id]
        report = done.result()
        if report is None:
            raise EvaluatorUnavailable(f"the judge of {member.name} gave the job up")
        return report

    async def _withdraw(
        self,
        member: _Member,
        judge: JudgeProcess,
        job_id: str,
        done: asyncio.Future[JobReport | None],
    ) -> None:
        """Has the judge let go of a job, or ends the judge."""
        judge.send(Cancel(job_id=job_id))
        await asyncio.wait({done}, timeout=_CANCEL_SECONDS)
        if not done.done():
            _LOG.error(
                "the judge of %s has not let go of job %s after %g s and is killed",
                member.name,
                job_id,
                _CANCEL_SECONDS,
            )
            judge.kill()
            await asyncio.wait({done})
        done.exception()  # whatever it is: nobody waits for it any more

    async def _evict(self) -> None:
        """Bounds what the caches of this machine's judges take on disk."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._settings.cleanup_interval)
                return
            try:
                evicted = await asyncio.to_thread(
                    evict_caches, self._settings.cache_dir, self._settings.cache_max_bytes
                )
            except Exception:
                # Whatever it is, the next round may do better; the disk fills until one does.
                _LOG.exception("the caches in %s cannot be bounded", self._settings.cache_dir)
                continue
            if evicted is not None and evicted.entries:
                _LOG.info(
                    "%d builds and kernels, unused for longest, made room: %d MiB",
                    evicted.entries,
                    evicted.freed_bytes >> 20,
                )

    async def _supervise(self, member: _Member) -> None:
        """Runs the member's judge, and another whenever one ends."""
        while not self._stopping.is_set():
            try:
                failure = await self._run(member)
            except Exception as error:
                _LOG.exception("the judge of %s could not be supervised", member.name)
                failure = f"its judge could not be supervised: {error}"
            if self._stopping.is_set():
                break
            if failure is not None:
                self._note_failure(member, failure)
            member.tried.set()
            # Bounded first: after weeks of failures no float holds such a power.
            doublings = min(member.failures - 1, _MOST_DOUBLINGS)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**doublings)
            if member.health is DeviceHealth.QUARANTINED:
                pause = member.quarantine
                member.quarantine = min(_LONGEST_QUARANTINE, 2 * pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        self._become(member, DeviceHealth.STOPPED, "the server is stopping")
        member.tried.set()

    async def _run(self, member: _Member) -> str | None:
        """Runs one judge to its end. Returns how it failed; None where its end was wanted."""
        try:
            judge = JudgeProcess(member.device.gpu, partial(self._take, member))
        except OSError as error:
            # The system has no process or no memory to give now; it may have, later.
            return f"its judge could not be started: {error}"
        member.judge = judge
        failure = None
        try:
            failure = await self._follow(member, judge)
        finally:
            if member.health is DeviceHealth.READY:
                self._become(member, DeviceHealth.STARTING, "its judge ended")
            how = await judge.close()
            member.judge = None
            self._builders.drop(judge)
            for pending in member.jobs.values():
                pending.fail(EvaluatorUnavailable(f"the judge of {member.name} {how}"))
        if failure is None and not judge.stopped:
            failure = f"its judge {how}"
        return failure

    async def _follow(self, member: _Member, judge: JudgeProcess) -> str | None:
        """Returns when a judge has ended; or, with the reason, when it is to be ended."""
        judge.send(self._configuration(member))
        seconds = self._settings.start_timeout
        events: set[asyncio.Future[Any]] = {judge.started, judge.ended}
        await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if judge.started.done():
            member.started = judge.started.result()
            if member.health is DeviceHealth.QUARANTINED:
                failure = await self._self_test(member, judge, member.started)
                if failure is not None:
                    return failure
                member.failures = 0
                _LOG.info("%s has passed its self-test", member.name)
            self._become(member, DeviceHealth.READY, None)
            member.tried.set()
            _LOG.info("%s takes jobs; its judge is process %d", member.name, judge.pid)
            await judge.ended
        elif not judge.ended.done():
            judge.kill()
            return f"its judge took no jobs within {seconds:g} s and was killed"
        return None

    async def _self_test(
        self, member: _Member, judge: JudgeProcess, started: Started
    ) -> str | None:
        """Has a judge judge what must be accepted; what is wrong if it is not."""
        triton = member.device.kind == "cuda" and started.environment.triton is not None
        request = SELF_TEST_WITH_TRITON if triton else SELF_TEST
        testing = asyncio.create_task(
            self._judge(member, judge, f"self-test-{member.name}", request, lambda _: None)
        )
        events: set[asyncio.Future[Any]] = {testing, judge.ended}
        await asyncio.wait(events, timeout=_SELF_TEST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not testing.done():
            # It ends with its judge, and nobody waits for it any more.
            testing.add_done_callback(lambda task: task.exception())
            if judge.ended.done():
                return "its judge ended during its self-test"
            return f"its self-test did not end within {_SELF_TEST_SECONDS:g} s"
        report = testing.result()
        if report.verdict is not Verdict.ACCEPTED:
            return f"its self-test ended with {report.verdict}: {_what_failed(report)}"
        return None

    def _take(self, member: _Member, message: Received) -> None:
        judge = member.judge
        assert judge is not None
        match message:
            case BuildWanted(number=number):
                grant = partial(judge.send, BuildGranted(number=number))
                self._builders.want(judge, number, grant)
            case BuildEnded(number=number):
                self._builders.end(judge, number)
            case Progress(job_id=job_id, report=partial_report):
                if job_id in member.jobs:
                    member.jobs[job_id].progress(partial_report)
            case Done(job_id=job_id, report=report):
                pending = member.jobs.get(job_id)
                if pending is not None and not pending.done.done():
                    pending.done.set_result(report)
                if report is not None:
                    self._note_report(member, report)

    def _note_report(self, member: _Member, report: JobReport) -> None:
        if report.verdict is not Verdict.INTERNAL_ERROR:
            member.failures = 0
            return
        member.failures += 1
        _LOG.error("the judge of %s failed: %s", member.name, report.error)
        if (
            member.health is DeviceHealth.READY
            and member.failures >= self._settings.quarantine_failures
        ):
            self._quarantine(member, f"its judge failed: {_what_failed(report)}")

    def _note_failure(self, member: _Member, failure: str) -> None:
        member.failures += 1
        if member.health is DeviceHealth.QUARANTINED:
            _LOG.error("%s stays quarantined for %g s: %s", member.name, member.quarantine, failure)
            self._become(member, DeviceHealth.QUARANTINED, failure)
        elif member.failures >= self._settings.quarantine_failures or not member.tried.is_set():
            self._quarantine(member, failure)
        else:
            _LOG.error("%s: %s; another is started", member.name, failure)
            self._become(member, DeviceHealth.STARTING, failure)

    def _quarantine(self, member: _Member, failure: str) -> None:
        """Lets it have no jobs until it has passed a self-test."""
        member.quarantine = self._settings.quarantine_seconds
        _LOG.error(
            "%s is quarantined for %g s after %d failure(s) in a row: %s",
            member.name,
            member.quarantine,
            member.failures,
            failure,
        )
        self._become(member, DeviceHealth.QUARANTINED, failure)

    def _end_if_unwanted(self, member: _Member, judge: JudgeProcess) -> None:
        """Ends the judge of a quarantined device with its last job."""
        if member.health is DeviceHealth.QUARANTINED and not member.jobs:
            judge.stop()

    def _become(self, member: _Member, health: DeviceHealth, reason: str | None) -> None:
        changed = health is not member.health
        member.health, member.reason = health, reason
        if changed:
            for call in self._listeners:
                call()

    def _configuration(self, member: _Member) -> JudgeConfiguration:
        return JudgeConfiguration(
            device=member.device.kind,
            name=member.name,
            cache=self._settings.cache_dir,
            gpu=member.device.gpu,
            standby=self._settings.standby,
            reference_runners=self._settings.reference_runners,
            jobs=self._settings.jobs_per_device,
            host_memory_bytes=self._settings.runner_memory_bytes
            or int(host.memory_bytes() * _HOST_MEMORY_SHARE),
        )


def _what_failed(report: JobReport) -> str:
    """The line of a report that says why it is not the wanted one."""
    if report.fault is not None:
        return report.fault.message
    lines = (report.error or "").strip().splitlines()
    return lines[-1] if lines else "no reason was given"
