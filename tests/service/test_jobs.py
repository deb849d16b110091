"""The service runs jobs, tells their states, and survives what goes wrong around them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
from scripted import ScriptedEvaluator, accepted, failed, partial

from kerneljudge.schema import (
    CompareRequest,
    EvaluateRequest,
    FaultKind,
    JobReport,
    JobRequest,
    KernelCode,
    KernelType,
    Phase,
    Verdict,
)
from kerneljudge.service import (
    DeviceState,
    EvaluatorUnavailable,
    JobService,
    JobState,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL = KernelCode(
    source_code="def f(x): return x", kernel_type=KernelType.TORCH, metadata={"mine": 1}
)
EVALUATE = EvaluateRequest(kernel=KERNEL)
COMPARE = CompareRequest(ref_kernel=KERNEL, custom_kernel=KERNEL)


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_judged_job_is_completed_and_keeps_its_report() -> None:
    async with JobService(ScriptedEvaluator()) as service:
        submitted = await service.submit(COMPARE)
        assert submitted.state is JobState.SUBMITTED
        job = await service.wait(submitted.job_id)
    assert job.state is JobState.COMPLETED
    assert job.kind == "compare"
    assert job.report is not None
    assert job.report.verdict is Verdict.ACCEPTED
    assert job.device == 0
    assert job.error is None
    assert job.kernels["reference"].metadata == {"mine": 1}


async def test_the_state_follows_the_phase() -> None:
    phases = (Phase.READ, Phase.BUILD, Phase.LOAD, Phase.CHECK, Phase.PROFILE)
    evaluator = ScriptedEvaluator(steps=phases)
    states = []
    async with JobService(evaluator) as service:
        job_id = (await service.submit(EVALUATE)).job_id
        for phase in phases:
            await settle()
            job = await service.get(job_id)
            assert job is not None
            assert job.report is not None
            assert job.report.phase is phase
            states.append(job.state.value)
            evaluator.step()
        assert (await service.wait(job_id)).state is JobState.COMPLETED
    assert states == ["compiling", "compiling", "compiling", "validating", "profiling"]


async def test_jobs_run_side_by_side() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    async with JobService(evaluator) as service:
        jobs = [await service.submit(EVALUATE) for _ in range(3)]
        await settle()
        assert evaluator.running == 3
        evaluator.step(3)
        done = [await service.wait(job.job_id) for job in jobs]
    assert len({job.job_id for job in done}) == 3
    assert all(job.state is JobState.COMPLETED for job in done)


@pytest.mark.parametrize("whose", ["candidate", "reference"])
async def test_running_out_of_time_fails_the_job_and_keeps_the_report(whose: str) -> None:
    def script(request: JobRequest) -> JobReport:
        return failed(request, FaultKind.TIMEOUT, Phase.CHECK, whose)  # type: ignore[arg-type]

    async with JobService(ScriptedEvaluator(script)) as service:
        job = await service.wait((await service.submit(COMPARE)).job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert f"Job timeout: the {whose} did not end in time (check)" in job.error
    assert job.report is not None
    assert job.report.candidate.compiled


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.TIMEOUT])
async def test_any_other_failure_of_a_kernel_completes_the_job(kind: FaultKind) -> None:
    evaluator = ScriptedEvaluator(lambda request: failed(request, kind, Phase.CHECK))
    async with JobService(evaluator) as service:
        job = await service.wait((await service.submit(EVALUATE)).job_id)
    assert job.state is JobState.COMPLETED
    assert job.error is None


async def test_a_failure_of_the_judge_fails_the_job_in_its_words() -> None:
    def script(request: JobRequest) -> JobReport:
        changes = {"verdict": Verdict.INTERNAL_ERROR, "error": "the judge died of signal 9"}
        return partial(request, Phase.CHECK).model_copy(update=changes)

    async with JobService(ScriptedEvaluator(script)) as service:
        job = await service.wait((await service.submit(EVALUATE)).job_id)
    assert job.state is JobState.FAILED
    assert job.error == "the judge died of signal 9"


class BrokenEvaluator:
    """Gets as far as the check, and raises."""

    def __init__(self, error: Exception, *, reports: bool) -> None:
        self.error = error
        self.reports = reports

    def devices(self) -> list[DeviceState]:
        return []

    async def judge(
        self, job_id: str, request: JobRequest, progress: Callable[[JobReport], None]
    ) -> tuple[JobReport, int]:
        if self.reports:
            progress(partial(request, Phase.CHECK))
        raise self.error


async def test_without_a_device_the_job_fails_and_says_so() -> None:
    evaluator = BrokenEvaluator(EvaluatorUnavailable("every device is gone"), reports=False)
    async with JobService(evaluator) as service:
        job = await service.wait((await service.submit(EVALUATE)).job_id)
    assert job.state is JobState.FAILED
    assert job.error == "every device is gone"
    assert job.report is None


async def test_an_error_of_the_evaluator_keeps_what_was_known_without_a_verdict() -> None:
    evaluator = BrokenEvaluator(RuntimeError("lost"), reports=True)
    async with JobService(evaluator) as service:
        job = await service.wait((await service.submit(EVALUATE)).job_id)
        again = await service.wait((await service.submit(EVALUATE)).job_id)
    assert job.state is JobState.FAILED
    assert job.error == "the evaluator failed: RuntimeError: lost"
    assert job.report is not None
    assert job.report.verdict is Verdict.INTERNAL_ERROR
    assert job.report.candidate.compiled
    assert again.job_id != job.job_id


async def test_a_waiter_that_goes_away_does_not_stop_the_job() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    async with JobService(evaluator) as service:
        job_id = (await service.submit(EVALUATE)).job_id
        waiter = asyncio.create_task(service.wait(job_id))
        await settle()
        waiter.cancel()
        await settle()
        assert evaluator.running == 1
        evaluator.step()
        assert (await service.wait(job_id)).state is JobState.COMPLETED


async def test_waiting_for_an_unknown_job_raises() -> None:
    async with JobService(ScriptedEvaluator()) as service:
        with pytest.raises(KeyError):
            await service.wait("no such job")


@pytest.mark.parametrize("started", [True, False])
async def test_stopping_ends_every_job_and_says_why(started: bool) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    service = JobService(evaluator)
    await service.start()
    job_id = (await service.submit(EVALUATE)).job_id
    if started:
        await settle()
    await service.stop()
    job = await service.wait(job_id)
    assert job.state is JobState.FAILED
    assert job.error == "the server was stopped before the job ended; submit it again"
    assert evaluator.running == 0
    with pytest.raises(EvaluatorUnavailable, match="stopping"):
        await service.submit(EVALUATE)


async def test_stopping_with_grace_lets_a_job_end() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    service = JobService(evaluator)
    await service.start()
    job_id = (await service.submit(EVALUATE)).job_id
    stopping = asyncio.create_task(service.stop(grace=60))
    await settle()
    evaluator.step()
    await stopping
    assert (await service.wait(job_id)).state is JobState.COMPLETED


async def test_a_cleanup_drops_only_jobs_that_ended_long_ago() -> None:
    now = [1000.0]
    evaluator = ScriptedEvaluator()
    async with JobService(evaluator, clock=lambda: now[0]) as service:
        old = await service.wait((await service.submit(EVALUATE)).job_id)
        now[0] += 299
        recent = await service.wait((await service.submit(EVALUATE)).job_id)
        assert await service.cleanup() == 0
        now[0] += 1
        assert await service.cleanup() == 1
        assert await service.get(old.job_id) is None
        assert await service.get(recent.job_id) is not None


async def test_the_background_cleanup_drops_what_is_older_than_the_retention() -> None:
    service = JobService(ScriptedEvaluator(), retention=0, cleanup_interval=0.001)
    async with service:
        job = await service.wait((await service.submit(EVALUATE)).job_id)
        while await service.get(job.job_id) is not None:
            await asyncio.sleep(0.001)
        assert (await service.job_stats())["total_jobs"] == 0


async def test_the_source_of_a_finished_job_is_not_kept() -> None:
    evaluator = ScriptedEvaluator(accepted)
    async with JobService(evaluator) as service:
        request = EvaluateRequest(kernel=KERNEL.model_copy())
        kept = weakref.ref(request)
        await service.wait((await service.submit(request)).job_id)
        evaluator.requests.clear()
        del request
        await settle()
        gc.collect()
        assert kept() is None
