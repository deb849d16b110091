"""The numbers of /stats come from the jobs that ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from scripted import STATS, ScriptedEvaluator, accepted, failed, side

from kerneljudge.api import StatsResponse
from kerneljudge.schema import (
    CheckReport,
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
    EvaluatorUnavailable,
    Job,
    JobService,
    JobState,
    Settings,
    SqlStore,
    Submission,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL = KernelCode(source_code="def f(x): return x", kernel_type=KernelType.TORCH)
EVALUATE = EvaluateRequest(kernel=KERNEL)
COMPARE = CompareRequest(ref_kernel=KERNEL, custom_kernel=KERNEL)


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def served(evaluator: ScriptedEvaluator, clock: Clock) -> AsyncIterator[JobService]:
    """A service on a database of its own."""
    store = await SqlStore.open("sqlite://", clock=clock)
    async with JobService(evaluator, store=store, settings=Settings(), clock=clock) as service:
        yield service
    await store.close()


async def stats_after(
    *scripts: Callable[[JobRequest], JobReport], request: JobRequest = COMPARE, uptime: float = 120
) -> StatsResponse:
    """The stats of a server that ran one job for each script, and is `uptime` seconds old."""
    clock = Clock()
    evaluator = ScriptedEvaluator(steps=(Phase.LOAD,))
    evaluator.step(len(scripts))
    async with served(evaluator, clock) as service:
        for script in scripts:
            evaluator.script = script
            await service.wait((await service.submit(Submission(request))).job_id)
        clock.now += uptime
        return StatsResponse.model_validate(await service.stats())


async def test_a_new_server_has_zeros_everywhere() -> None:
    stats = await stats_after(uptime=0)
    numbers = [
        value
        for group in (
            stats.compilation_metrics,
            stats.profiling_metrics,
            stats.gpu_utilization,
            stats.throughput,
        )
        for _, value in group
        if isinstance(value, int | float)
    ]
    assert numbers == [0] * len(numbers)
    assert stats.gpu_utilization_pct == 0
    assert stats.verdicts == {}


def with_builds(request: JobRequest) -> JobReport:
    """A reference without a build, a candidate that was built in 3 seconds."""
    return accepted(request).model_copy(
        update={"candidate": side(way="nvrtc", seconds=3.0), "reference": side()}
    )


def with_cached_build(request: JobRequest) -> JobReport:
    return with_builds(request).model_copy(update={"candidate": side(way="nvrtc", cached=True)})


def with_failed_build(request: JobRequest) -> JobReport:
    report = failed(request, FaultKind.COMPILE_ERROR, Phase.BUILD)
    fault = report.candidate.fault
    candidate = side(compiled=False, runtime=None, fault=fault, way="nvcc", seconds=6.0)
    return report.model_copy(update={"candidate": candidate})


async def test_compilations_are_counted_by_kernel_and_timed_where_something_is_built() -> None:
    metrics = (
        await stats_after(with_builds, with_cached_build, with_failed_build)
    ).compilation_metrics
    assert metrics.total_compilations == 6
    assert metrics.successful_compilations == 5
    assert metrics.failed_compilations == 1
    assert metrics.success_rate == pytest.approx(5 / 6)
    assert metrics.total_time_seconds == pytest.approx(9)
    assert metrics.average_time_seconds == pytest.approx(3)
    assert metrics.min_time_seconds == 0
    assert metrics.max_time_seconds == 6
    assert (metrics.cache_hits, metrics.cache_misses) == (1, 2)
    assert metrics.cache_hit_rate == pytest.approx(1 / 3)


async def test_a_kernel_that_was_never_tried_is_no_failed_compilation() -> None:
    def script(request: JobRequest) -> JobReport:
        report = failed(request, FaultKind.COMPILE_ERROR, Phase.BUILD, "reference")
        return report.model_copy(update={"candidate": side(compiled=False, runtime=None)})

    metrics = (await stats_after(script)).compilation_metrics
    assert (metrics.successful_compilations, metrics.failed_compilations) == (0, 1)


def wrong(request: JobRequest) -> JobReport:
    report = failed(request, FaultKind.RUNTIME_ERROR, Phase.CHECK)
    checks = [
        CheckReport(trial=0, seed=1, passed=True),
        CheckReport(trial=1, seed=2, passed=False),
    ]
    changes = {"verdict": Verdict.WRONG_ANSWER, "fault": None, "checks": checks}
    return report.model_copy(update=changes)


async def test_correctness_counts_jobs_that_were_checked() -> None:
    metrics = (
        await stats_after(
            accepted,
            wrong,
            lambda request: failed(request, FaultKind.CRASHED, Phase.CHECK),
            lambda request: failed(request, FaultKind.CRASHED, Phase.PROFILE),
            lambda request: failed(request, FaultKind.COMPILE_ERROR, Phase.BUILD),
        )
    ).profiling_metrics
    assert (metrics.correctness_passed, metrics.correctness_failed) == (2, 2)
    assert metrics.correctness_rate == 0.5


def with_events(request: JobRequest) -> JobReport:
    candidate = side()
    assert candidate.clock is not None
    clock = candidate.clock.model_copy(update={"name": "cuda_events", "fallback_reason": "no"})
    return accepted(request).model_copy(
        update={"candidate": candidate.model_copy(update={"clock": clock})}
    )


async def test_profilings_are_counted_by_job_with_their_clocks() -> None:
    stats = await stats_after(
        accepted,
        with_events,
        lambda request: failed(request, FaultKind.CRASHED, Phase.PROFILE),
        lambda request: failed(request, FaultKind.CRASHED, Phase.CHECK),
    )
    metrics = stats.profiling_metrics
    assert metrics.total_profilings == 3
    assert metrics.successful_profilings == 2
    assert metrics.failed_profilings == 1
    assert metrics.total_time_seconds == pytest.approx(1.5)
    assert metrics.average_time_seconds == pytest.approx(0.5)
    assert (metrics.graph_captures, metrics.graph_fallbacks) == (3, 1)
    assert metrics.gpu_usage_times == {"cpu": pytest.approx(2.0)}
    assert stats.avg_runtime_ms == pytest.approx(STATS.mean)


async def test_devices_are_busy_while_jobs_are_on_them() -> None:
    stats = await stats_after(accepted, accepted, uptime=24)
    metrics = stats.gpu_utilization
    assert (metrics.gpu_acquisitions, metrics.gpu_releases, metrics.active_sessions) == (2, 2, 0)
    # Load, check and profile of two jobs; a build holds no device.
    assert metrics.total_gpu_time_seconds == pytest.approx(2.4)
    assert metrics.utilization_by_gpu == {
        "cpu": {"jobs": 2, "busy_seconds": pytest.approx(2.4), "utilization_pct": pytest.approx(10)}
    }
    assert stats.gpu_utilization_pct == pytest.approx(10)


async def test_waiting_ends_when_a_job_is_given_its_device() -> None:
    clock = Clock()
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD, Phase.LOAD))
    async with served(evaluator, clock) as service:
        job = await service.submit(Submission(EVALUATE, client="someone"))

        async def reached(state: Callable[[Job], bool]) -> None:
            while not (found := await service.get(job.job_id)) or not state(found):
                await asyncio.sleep(0)

        await reached(lambda found: found.started_at is not None)
        building = StatsResponse.model_validate(await service.stats())
        assert building.gpu_utilization.gpu_acquisitions == 0, "a build holds no device"
        clock.now += 5
        evaluator.step()
        await reached(lambda found: found.acquired_at is not None)
        clock.now += 2
        running = StatsResponse.model_validate(await service.stats())
        assert running.gpu_utilization.active_sessions == 1
        # 5 seconds since the submission, of which reading the source took 0.1.
        assert running.gpu_utilization.average_wait_time_seconds == pytest.approx(4.9)
        assert running.throughput.active_requests == 1
        waits = (await service.stats())["gpu_utilization"]["wait_time_by_client"]
        assert waits["someone"]["average_wait_time_seconds"] == pytest.approx(4.9)
        evaluator.step()
        await service.wait(job.job_id)
        done = StatsResponse.model_validate(await service.stats())
    assert done.gpu_utilization.active_sessions == 0
    assert done.throughput.average_end_to_end_time_seconds == 7


async def test_throughput_tells_completed_from_failed() -> None:
    stats = await stats_after(
        accepted, wrong, lambda request: failed(request, FaultKind.TIMEOUT, Phase.CHECK)
    )
    throughput = stats.throughput
    assert throughput.server_uptime_seconds == 120
    assert throughput.server_uptime_minutes == 2
    assert throughput.total_requests == 3
    assert (throughput.completed_requests, throughput.failed_requests) == (2, 1)
    assert throughput.success_rate == pytest.approx(2 / 3)
    assert throughput.requests_per_minute == pytest.approx(1.5)
    assert throughput.recent_throughput_per_minute == pytest.approx(1.5)
    assert (stats.jobs_completed, stats.jobs_failed) == (2, 1)
    assert stats.verdicts == {"accepted": 1, "wrong_answer": 1, "timeout": 1}
    assert stats.job_stats.by_status == {"completed": 2, "failed": 1}


async def test_recent_throughput_forgets_what_is_older_than_five_minutes() -> None:
    throughput = (await stats_after(accepted, uptime=299)).throughput
    assert throughput.recent_throughput_per_minute > 0
    throughput = (await stats_after(accepted, uptime=300)).throughput
    assert throughput.recent_throughput_per_minute == 0
    assert throughput.requests_per_minute > 0


async def test_a_job_that_is_begun_again_lets_go_of_its_device_in_between() -> None:
    clock = Clock()
    answers = iter([EvaluatorUnavailable("the judge ended"), None])

    def script(request: JobRequest) -> JobReport:
        clock.now += 3
        if error := next(answers):
            raise error
        return accepted(request)

    evaluator = ScriptedEvaluator(script, steps=(Phase.LOAD,))
    evaluator.step(2)
    async with served(evaluator, clock) as service:
        job = await service.submit(Submission(EVALUATE))
        assert (await service.wait(job.job_id)).state is JobState.COMPLETED
        stats = StatsResponse.model_validate(await service.stats())
    assert stats.gpu_utilization.gpu_acquisitions == 2
    assert stats.gpu_utilization.active_sessions == 0
    # What the judge that died took of the device, and what the report of the other says.
    assert stats.gpu_utilization.total_gpu_time_seconds == pytest.approx(3 + 1.2)


async def test_a_cancelled_job_is_neither_a_success_nor_a_failure() -> None:
    evaluator = ScriptedEvaluator(unready={0})
    async with served(evaluator, Clock()) as service:
        job = await service.submit(Submission(EVALUATE))
        before = (await service.stats())["throughput"]
        await service.cancel(job.job_id)
        after = (await service.stats())["throughput"]
    assert (before["active_requests"], after["active_requests"]) == (1, 0)
    assert (before["cancelled_requests"], after["cancelled_requests"]) == (0, 1)
    assert (after["completed_requests"], after["failed_requests"]) == (0, 0)


async def test_a_job_from_a_server_whose_clock_is_ahead_took_no_negative_time() -> None:
    clock = Clock()
    evaluator = ScriptedEvaluator(steps=(Phase.LOAD,))
    async with served(evaluator, clock) as service:
        job = await service.submit(Submission(EVALUATE))
        clock.now -= 5
        evaluator.step()
        await service.wait(job.job_id)
        throughput = StatsResponse.model_validate(await service.stats()).throughput
    assert throughput.min_end_to_end_time_seconds == 0
    assert throughput.average_end_to_end_time_seconds == 0
