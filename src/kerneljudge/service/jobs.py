"""The service: takes requests, has them judged, and keeps what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from kerneljudge.schema import (
    CompareRequest,
    FaultKind,
    JobReport,
    JobRequest,
    KernelCode,
    Phase,
    Side,
    Verdict,
)
from kerneljudge.service.evaluator import DeviceState, Evaluator, EvaluatorUnavailable
from kerneljudge.service.metrics import ON_DEVICE, Metrics
from kerneljudge.service.store import Job, JobState, JobStore, MemoryJobStore, SubmittedKernel

__all__ = ["CLEANUP_AGE", "JobService"]

CLEANUP_AGE = 300.0
"""Seconds since the end of a job after which a cleanup by hand drops it."""

_LOG = logging.getLogger(__name__)

_STATE = {
    Phase.READ: JobState.COMPILING,
    Phase.BUILD: JobState.COMPILING,
    Phase.LOAD: JobState.COMPILING,
    Phase.CHECK: JobState.VALIDATING,
    Phase.PROFILE: JobState.PROFILING,
    Phase.DONE: JobState.PROFILING,
}

_STOPPED = "the server was stopped before the job ended; submit it again"


class JobService:
    """Runs jobs through an evaluator; an asynchronous context manager.

    Every job has a task of its own, so it goes on when the client that waits for it goes away.
    All methods belong to the event loop on which `start` ran, and so does the evaluator's
    progress callback.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        store: JobStore | None = None,
        retention: float = 3600,
        cleanup_interval: float = 300,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serves from the `evaluator`, which the caller starts and stops.

        Jobs go to the `store`, this process's memory unless given. Every `cleanup_interval`
        seconds, jobs that ended `retention` seconds ago are dropped.
        """
        self._evaluator = evaluator
        self._clock = clock
        self._store = store if store is not None else MemoryJobStore(clock)
        self._metrics = Metrics(clock)
        self._retention = retention
        self._cleanup_interval = cleanup_interval
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cleaner: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Begins the background cleanup."""
        if self._cleaner is None:
            self._cleaner = asyncio.create_task(self._clean_for_ever())

    async def stop(self, grace: float = 0) -> None:
        """Takes no more jobs, waits `grace` seconds for those that run, and cancels the rest."""
        self._stopping = True
        if self._cleaner is not None:
            self._cleaner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._cleaner
            self._cleaner = None
        running = list(self._running.values())
        if not running:
            return
        # A task cancelled before its first step would never tell its job's end.
        await asyncio.sleep(0)
        if grace > 0:
            await asyncio.wait(running, timeout=grace)
        for task in running:
            task.cancel()
        await asyncio.wait(running)

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

    async def submit(self, request: JobRequest) -> Job:
        """Accepts a job and returns at once. Raises `EvaluatorUnavailable` while stopping."""
        if self._stopping:
            raise EvaluatorUnavailable("the server is stopping and takes no more jobs")
        job = Job(
            job_id=str(uuid.uuid4()),
            kind="compare" if isinstance(request, CompareRequest) else "evaluate",
            kernels={
                side: SubmittedKernel(kernel.kernel_type, kernel.metadata or {})
                for side, kernel in _kernels(request).items()
            },
            created_at=self._clock(),
        )
        await self._store.create(job)
        self._metrics.submitted()
        task = asyncio.create_task(self._run(job, request), name=f"job {job.job_id}")
        self._running[job.job_id] = task
        task.add_done_callback(lambda _: self._running.pop(job.job_id, None))
        return job

    async def wait(self, job_id: str) -> Job:
        """The job, once it has ended. Raises `KeyError` for an unknown one.

        Cancelling the wait does not cancel the job.
        """
        task = self._running.get(job_id)
        if task is not None:
            await asyncio.wait([task])
        job = await self._store.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    async def get(self, job_id: str) -> Job | None:
        """The job as it stands, or None for an unknown one."""
        return await self._store.get(job_id)

    async def cleanup(self, older_than: float = CLEANUP_AGE) -> int:
        """Drops the jobs that ended at least `older_than` seconds ago; says how many."""
        return await self._store.remove_finished(older_than)

    def devices(self) -> list[DeviceState]:
        """Every configured device."""
        return self._evaluator.devices()

    async def job_stats(self) -> dict[str, Any]:
        """The group `job_stats`: total_jobs, by_status, average_age in seconds."""
        counts = await self._store.counts()
        return {
            "total_jobs": counts.total,
            "by_status": {state.value: count for state, count in counts.by_state.items()},
            "average_age": counts.average_age,
        }

    async def stats(self) -> dict[str, Any]:
        """Every group of `/stats`; see `Metrics.as_dict`."""
        return {"job_stats": await self.job_stats(), **self._metrics.as_dict(self.devices())}

    async def _run(self, job: Job, request: JobRequest) -> None:
        reports: asyncio.Queue[JobReport | None] = asyncio.Queue()
        recording = asyncio.create_task(self._record(job, reports))
        report: JobReport | None = None
        device: int | None = None
        error: str | None = None
        try:
            report, device = await self._evaluator.judge(job.job_id, request, reports.put_nowait)
        except asyncio.CancelledError:
            # Only `stop` cancels a job; it ends here, with its state told.
            error = _STOPPED
        except EvaluatorUnavailable as unavailable:
            _LOG.error("job %s: no device took it: %s", job.job_id, unavailable)
            error = str(unavailable)
        except Exception as failure:
            # Whatever it is, it is no kernel's fault: the job fails and says so.
            _LOG.exception("job %s: the evaluator failed", job.job_id)
            error = f"the evaluator failed: {type(failure).__name__}: {failure}"
        finally:
            reports.put_nowait(None)
        job = await recording
        await self._finish(job, report, device, error)

    async def _record(self, job: Job, reports: asyncio.Queue[JobReport | None]) -> Job:
        """Stores each partial report in turn; returns the job as of the last."""
        while (report := await reports.get()) is not None:
            job = replace(job, state=_STATE[report.phase], report=report)
            if job.started_at is None:
                job = replace(job, started_at=self._clock())
            if job.acquired_at is None and report.phase in ON_DEVICE:
                job = replace(job, acquired_at=self._clock())
                self._metrics.acquired(job)
            await self._store.update(job)
        return job

    async def _finish(
        self, job: Job, report: JobReport | None, device: int | None, error: str | None
    ) -> None:
        if report is None and job.report is not None:
            # What is known stays, but a partial report's verdict is none.
            report = job.report.model_copy(
                update={"verdict": Verdict.INTERNAL_ERROR, "error": error}
            )
        if report is not None:
            error = _failure(report)
        job = replace(
            job,
            state=JobState.COMPLETED if error is None else JobState.FAILED,
            report=report,
            device=device,
            error=error,
            finished_at=self._clock(),
        )
        await self._store.update(job)
        self._metrics.finished(job)
        _LOG.info(
            "job %s: %s", job.job_id, report.verdict.value if report is not None else job.error
        )

    async def _clean_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._cleanup_interval)
            removed = await self._store.remove_finished(self._retention)
            if removed:
                _LOG.info("dropped %d jobs that ended %g s ago", removed, self._retention)


def _kernels(request: JobRequest) -> dict[Side, KernelCode]:
    if isinstance(request, CompareRequest):
        return {"candidate": request.custom_kernel, "reference": request.ref_kernel}
    return {"candidate": request.kernel}


def _failure(report: JobReport) -> str | None:
    """Why a judged job counts as failed, or None: it ran out of time, or the judge failed."""
    if report.verdict is Verdict.INTERNAL_ERROR:
        return report.error or "the judge failed without saying why"
    fault = report.fault
    if fault is not None and fault.kind is FaultKind.TIMEOUT:
        return f"Job timeout: the {fault.side} did not end in time ({fault.phase}): {fault.message}"
    return None
