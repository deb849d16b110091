"""The service runs jobs, tells their states, and survives what goes wrong around them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from links import Link
from scripted import ScriptedEvaluator, accepted, failed, partial

from kerneljudge.contract import IOContractBuilder, create_zeros_spec
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
    DatabaseUnusable,
    Draining,
    EvaluatorUnavailable,
    IdempotencyConflict,
    Job,
    JobEvent,
    JobFilter,
    JobService,
    JobState,
    QueueFull,
    QuotaExceeded,
    Settings,
    SqlStore,
    Submission,
    TooMuchMemory,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL = KernelCode(
    source_code="def f(x): return x", kernel_type=KernelType.TORCH, metadata={"mine": 1}
)
EVALUATE = EvaluateRequest(kernel=KERNEL)
COMPARE = CompareRequest(ref_kernel=KERNEL, custom_kernel=KERNEL)
PHASES = (Phase.READ, Phase.BUILD, Phase.LOAD, Phase.CHECK, Phase.PROFILE)

Serve = Callable[..., JobService]


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db")
    yield opened
    await opened.close()


@pytest.fixture
async def serve(store: SqlStore) -> AsyncIterator[Serve]:
    """Makes services; keyword arguments that are no argument of it are settings."""

    def make(evaluator: Any, **given: Any) -> JobService:
        names = ("store", "clock", "weights")
        own = {name: given.pop(name) for name in names if name in given}
        return JobService(evaluator, **{"store": store, **own}, settings=Settings(**given))

    yield make
    # What is left of servers that were cut off.
    left = [task for task in asyncio.all_tasks() if "/kerneljudge/" in _file_of(task)]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _file_of(task: asyncio.Task[Any]) -> str:
    """Where the code of a task is."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every second is looked at all the time."""
    monkeypatch.setattr("kerneljudge.service.jobs._TICK_SECONDS", 0.01)
    monkeypatch.setattr("kerneljudge.service.jobs._POLL_SECONDS", 0.01)
    monkeypatch.setattr("kerneljudge.service.dispatcher._RETRY_SECONDS", 0.01)


async def until(reached: Callable[[], bool]) -> None:
    """Returns when it is so; the test's own timeout says when that is too long."""
    while not reached():
        await asyncio.sleep(0.001)


async def in_state(service: JobService, job_id: str, state: JobState) -> None:
    """Returns when the job has reached the state."""
    async for event in service.events(job_id):
        if event.state is state:
            return
    raise AssertionError(f"the job ended without being {state}")


async def in_state_again(service: JobService, job_id: str, state: JobState) -> None:
    """Returns when the job has come back to the state that it began in."""
    async for event in service.events(job_id, after=1):
        if event.state is state:
            return
    raise AssertionError(f"the job ended without being {state} again")


async def history(service: JobService, job_id: str) -> list[JobEvent]:
    return [event async for event in service.events(job_id)]


async def submit(service: JobService, request: JobRequest = EVALUATE, **given: Any) -> str:
    return (await service.submit(Submission(request, **given))).job_id


async def judged(service: JobService, request: JobRequest = EVALUATE, **given: Any) -> Job:
    return await service.wait(await submit(service, request, **given))


# What becomes of a job.


async def test_a_judged_job_is_completed_and_keeps_its_report(serve: Serve) -> None:
    async with serve(ScriptedEvaluator()) as service:
        submitted = await service.submit(Submission(COMPARE))
        assert submitted.state is JobState.QUEUED
        job = await service.wait(submitted.job_id)
        assert await service.get(job.job_id) == job
    assert job.state is JobState.COMPLETED
    assert job.kind == "compare"
    assert job.verdict is Verdict.ACCEPTED
    assert job.report is not None
    assert job.report.verdict is Verdict.ACCEPTED
    assert (job.device, job.device_name) == (0, "cpu")
    assert job.error is None
    assert job.kernels["reference"].metadata == {"mine": 1}


async def test_the_state_follows_the_phase_and_each_is_an_event(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=PHASES)
    async with serve(evaluator) as service:
        job_id = await submit(service)
        seen: list[tuple[str, str | None]] = []
        async for event in service.events(job_id):
            seen.append((event.state.value, event.phase))
            if event.phase in PHASES:
                job = await service.get(job_id)
                assert job is not None
                assert job.report is not None
                assert job.report.phase is event.phase, "each phase's result is stored as it comes"
                assert job.verdict is None, "a partial report has no verdict"
                evaluator.step()
    assert seen == [
        ("queued", None),
        ("submitted", None),
        ("compiling", "read"),
        ("compiling", "build"),
        ("compiling", "load"),
        ("validating", "check"),
        ("profiling", "profile"),
        ("completed", "done"),
    ]


async def test_phases_that_pass_faster_than_they_are_stored_are_events_too(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=PHASES)
    evaluator.step(len(PHASES))
    async with serve(evaluator) as service:
        job = await judged(service)
        events = await history(service, job.job_id)
    assert [event.phase for event in events] == [None, None, *PHASES, Phase.DONE]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert job.started_at == events[2].at
    assert job.acquired_at == events[4].at


async def test_events_can_be_taken_up_where_they_were_left(serve: Serve) -> None:
    async with serve(ScriptedEvaluator()) as service:
        job = await judged(service)
        numbers = [event.number async for event in service.events(job.job_id)]
        assert numbers == [1, 2, 3]
        assert [event.number async for event in service.events(job.job_id, after=2)] == [3]
        assert [event.number async for event in service.events(job.job_id, after=3)] == []


async def test_jobs_run_side_by_side_up_to_the_capacity(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,), device_names=("a", "b"), capacity=2)
    async with serve(evaluator) as service:
        jobs = [await submit(service) for _ in range(6)]
        for job_id in jobs[:4]:
            await in_state(service, job_id, JobState.COMPILING)
        assert evaluator.running == 4
        assert [device.jobs for device in service.devices()] == [2, 2]
        assert (service.queue()["waiting"], service.queue()["running"]) == (2, 4)
        evaluator.step(6)
        done = [await service.wait(job_id) for job_id in jobs]
    assert all(job.state is JobState.COMPLETED for job in done)
    assert len({job_id for job_id, _ in evaluator.judged}) == 6


@pytest.mark.parametrize("whose", ["candidate", "reference"])
async def test_running_out_of_time_fails_the_job_and_keeps_the_report(
    serve: Serve, whose: str
) -> None:
    def script(request: JobRequest) -> JobReport:
        return failed(request, FaultKind.TIMEOUT, Phase.CHECK, whose)  # type: ignore[arg-type]

    async with serve(ScriptedEvaluator(script)) as service:
        job = await judged(service, COMPARE)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert f"Job timeout: the {whose} did not end in time (check)" in job.error
    assert job.report is not None
    assert job.report.candidate.compiled


@pytest.mark.parametrize("kind", [FaultKind.CRASHED, FaultKind.COMPILE_ERROR])
async def test_any_other_failure_of_a_kernel_completes_the_job(
    serve: Serve, kind: FaultKind
) -> None:
    evaluator = ScriptedEvaluator(lambda request: failed(request, kind, Phase.CHECK))
    async with serve(evaluator) as service:
        job = await judged(service)
    assert (job.state, job.error) == (JobState.COMPLETED, None)


async def test_a_failure_of_the_judge_fails_the_job_in_its_words(serve: Serve) -> None:
    def script(request: JobRequest) -> JobReport:
        changes = {"verdict": Verdict.INTERNAL_ERROR, "error": "the judge had no idea"}
        return partial(request, Phase.CHECK).model_copy(update=changes)

    async with serve(ScriptedEvaluator(script)) as service:
        job = await judged(service)
    assert (job.state, job.error) == (JobState.FAILED, "the judge had no idea")


async def test_a_job_whose_judge_dies_is_begun_again(serve: Serve) -> None:
    answers = iter([EvaluatorUnavailable("the judge of cpu ended"), None])

    def script(request: JobRequest) -> JobReport:
        if error := next(answers):
            raise error
        return accepted(request)

    async with serve(ScriptedEvaluator(script)) as service:
        job = await judged(service)
        events = await history(service, job.job_id)
        stats = (await service.stats())["throughput"]
    assert (job.state, job.attempts) == (JobState.COMPLETED, 2)
    assert [event.state.value for event in events] == [
        "queued", "submitted", "queued", "submitted", "completed"
    ]  # fmt: skip
    assert "the judge of cpu ended" in (events[2].message or "")
    assert (stats["requeued_requests"], stats["resumed_requests"]) == (1, 1)


async def test_a_job_is_given_up_after_so_many_attempts_and_says_why(serve: Serve) -> None:
    def script(request: JobRequest) -> JobReport:
        raise EvaluatorUnavailable("the judge of cpu ended")

    evaluator = ScriptedEvaluator(script)
    async with serve(evaluator, max_attempts=2) as service:
        job = await judged(service)
    assert job.state is JobState.FAILED
    assert job.error == "given up after 2 attempts, of which the last: the judge of cpu ended"
    assert len(evaluator.judged) == 2


async def test_an_error_of_the_evaluator_keeps_what_was_known_without_a_verdict(
    serve: Serve,
) -> None:
    def script(request: JobRequest) -> JobReport:
        raise RuntimeError("lost")

    evaluator = ScriptedEvaluator(script, steps=(Phase.CHECK,))
    evaluator.step(2)
    async with serve(evaluator) as service:
        job = await judged(service)
        again = await judged(service)
    assert job.state is JobState.FAILED
    assert job.error == "the evaluator failed: RuntimeError: lost"
    assert job.report is not None
    assert job.report.verdict is Verdict.INTERNAL_ERROR
    assert job.report.candidate.compiled
    assert again.job_id != job.job_id


async def test_jobs_wait_for_a_device_to_become_ready(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(unready={0})
    async with serve(evaluator) as service:
        job_id = await submit(service)
        assert (await service.wait(job_id, timeout=0)).state is JobState.QUEUED
        evaluator.change(0, ready=True)
        assert (await service.wait(job_id)).state is JobState.COMPLETED


async def test_a_higher_priority_goes_first(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(unready={0}, capacity=1)
    async with serve(evaluator) as service:
        jobs = [await submit(service, priority=priority) for priority in (0, -5, 10)]
        evaluator.change(0, ready=True)
        for job_id in jobs:
            await service.wait(job_id)
    assert [jobs.index(job_id) for job_id, _ in evaluator.judged] == [2, 0, 1]


async def test_clients_share_by_their_weights(serve: Serve) -> None:
    async def weights() -> dict[str, float]:
        return {"rich": 3.0}

    evaluator = ScriptedEvaluator(unready={0})
    async with serve(evaluator, weights=weights) as service:
        await submit(service, client="rich")
        await submit(service, client="poor")
        clients = service.queue()["clients"]
        assert {name: client["share"] for name, client in clients.items()} == {
            "rich": 0.75,
            "poor": 0.25,
        }


# Acceptance.


async def test_the_same_idempotency_key_is_the_same_job(serve: Serve) -> None:
    evaluator = ScriptedEvaluator()
    async with serve(evaluator) as service:
        first = await judged(service, idempotency_key="once")
        second = await service.submit(Submission(EVALUATE, idempotency_key="once"))
        assert (second.job_id, second.state) == (first.job_id, JobState.COMPLETED)
        with pytest.raises(IdempotencyConflict):
            await submit(service, COMPARE, idempotency_key="once")
        assert len(evaluator.judged) == 1
        assert (await service.stats())["throughput"]["total_requests"] == 1


async def test_a_batch_is_accepted_whole_or_not_at_all(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(unready={0})
    async with serve(evaluator, max_queued=3) as service:
        await service.submit_all([Submission(EVALUATE), Submission(COMPARE)])
        with pytest.raises(QueueFull) as refusal:
            await service.submit_all([Submission(EVALUATE), Submission(EVALUATE)])
        assert refusal.value.retry_after > 0
        assert len((await service.page(JobFilter(), 10)).jobs) == 2
        assert await service.submit_all([]) == []


async def test_a_batch_tells_which_of_its_jobs_are_new(serve: Serve) -> None:
    async with serve(ScriptedEvaluator()) as service:
        first = await service.submit(Submission(EVALUATE, idempotency_key="once"))
        batch = [Submission(EVALUATE, idempotency_key="once"), Submission(EVALUATE)]
        (again, again_is_new), (other, other_is_new) = await service.submit_all(batch)
        assert (again.job_id, again_is_new) == (first.job_id, False)
        assert other.job_id != first.job_id
        assert other_is_new


async def test_a_full_queue_says_when_there_may_be_room(serve: Serve) -> None:
    clock = Clock()
    evaluator = ScriptedEvaluator()
    async with serve(evaluator, clock=clock, max_queued=40) as service:
        for _ in range(10):
            await judged(service)
        clock.now += 100  # ten jobs in as many seconds: one in ten
        evaluator.ready = False
        await service.submit_all([Submission(EVALUATE)] * 40)
        for count, seconds in ((1, 40), (8, 80), (100, 300)):
            with pytest.raises(QueueFull) as refusal:
                await service.submit_all([Submission(EVALUATE)] * count)
            assert refusal.value.retry_after == pytest.approx(seconds)


async def test_a_submission_that_is_broken_off_when_it_is_stored_is_judged(
    serve: Serve, store: SqlStore
) -> None:
    class Slow(Link):
        stored, go_on = asyncio.Event(), asyncio.Event()

        async def create(self, *arguments: Any) -> Any:
            created = await store.create(*arguments)
            self.stored.set()
            await self.go_on.wait()
            return created

    link = Slow(store)
    async with serve(ScriptedEvaluator(), store=link) as service:
        broken_off = asyncio.create_task(service.submit(Submission(EVALUATE)))
        await link.stored.wait()
        broken_off.cancel()
        await asyncio.wait([broken_off])
        link.go_on.set()
        (job,) = (await service.page(JobFilter(), 10)).jobs
        assert (await service.wait(job.job_id)).state is JobState.COMPLETED


async def test_a_key_has_no_more_unfinished_jobs_than_it_may(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    async with serve(evaluator) as service:
        job_id = await submit(service, key_id="k", max_unfinished=1)
        with pytest.raises(QuotaExceeded):
            await submit(service, key_id="k", max_unfinished=1)
        evaluator.step()
        await service.wait(job_id)
        await submit(service, key_id="k", max_unfinished=1)


def needing(elements: int) -> EvaluateRequest:
    spec = create_zeros_spec([elements], "uint8")
    contract = IOContractBuilder().add_input_tensor("x", spec).add_inout_tensor("y", spec).build()
    return EvaluateRequest(kernel=KERNEL.model_copy(update={"io": contract}))


async def test_a_job_that_no_device_has_the_memory_for_is_refused(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(memory_bytes=1000)
    async with serve(evaluator) as service:
        # The tensors exist for the judge and for the kernel.
        assert (await judged(service, needing(250))).memory_bytes == 1000
        with pytest.raises(TooMuchMemory, match="largest device"):
            await submit(service, needing(251))
        evaluator.memory_bytes = None
        await judged(service, needing(251))


async def test_a_job_waits_for_memory_beside_the_running_ones(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(memory_bytes=1000, steps=(Phase.LOAD,))
    async with serve(evaluator) as service:
        first = await submit(service, needing(200))
        second = await submit(service, needing(200))
        await in_state(service, first, JobState.COMPILING)
        assert (await service.wait(second, timeout=0)).state is JobState.QUEUED
        evaluator.step(2)
        assert (await service.wait(second)).state is JobState.COMPLETED


# Waiting.


async def test_a_waiter_that_goes_away_does_not_stop_the_job(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    async with serve(evaluator) as service:
        job_id = await submit(service)
        waiter = asyncio.create_task(service.wait(job_id))
        await in_state(service, job_id, JobState.COMPILING)
        waiter.cancel()
        assert evaluator.running == 1
        evaluator.step()
        assert (await service.wait(job_id)).state is JobState.COMPLETED


async def test_a_wait_with_a_timeout_tells_the_job_as_it_stands(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serve(evaluator) as service:
        job_id = await submit(service)
        await in_state(service, job_id, JobState.VALIDATING)
        job = await service.wait(job_id, timeout=0)
        assert job.state is JobState.VALIDATING
        assert job.report is not None
        evaluator.step()
        assert (await service.wait(job_id, timeout=60)).state is JobState.COMPLETED


async def test_a_thousand_waiters_are_told_at_once(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    async with serve(evaluator) as service:
        jobs = [await submit(service) for _ in range(4)]
        waits = [asyncio.create_task(service.wait(jobs[number % 4])) for number in range(1000)]
        evaluator.step(4)
        ended = await asyncio.gather(*waits)
    assert [job.job_id for job in ended] == [jobs[number % 4] for number in range(1000)]


async def test_an_unknown_job_is_told_as_such(serve: Serve) -> None:
    async with serve(ScriptedEvaluator()) as service:
        with pytest.raises(KeyError):
            await service.wait("no such job")
        with pytest.raises(KeyError):
            await history(service, "no such job")
        assert await service.get("no such job") is None
        assert await service.cancel("no such job") is None


# Cancelling.


async def test_a_waiting_job_is_cancelled_at_once(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(unready={0})
    async with serve(evaluator) as service:
        job_id = await submit(service)
        waiter = asyncio.create_task(service.wait(job_id))
        job = await service.cancel(job_id, "not wanted any more")
        assert job is not None
        assert (job.state, job.error) == (JobState.CANCELLED, "not wanted any more")
        assert (await waiter).state is JobState.CANCELLED
        evaluator.change(0, ready=True)
        await judged(service)
        assert (await service.stats())["throughput"]["cancelled_requests"] == 1
    assert job_id not in {judged_id for judged_id, _ in evaluator.judged}


async def test_a_running_job_is_cancelled_when_its_judge_has_let_go_of_it(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,), capacity=1)
    evaluator.lets_go.clear()
    async with serve(evaluator) as service:
        job_id = await submit(service)
        await in_state(service, job_id, JobState.VALIDATING)
        following = await submit(service)
        cancelling = asyncio.create_task(service.cancel(job_id))
        async for event in service.events(job_id):
            if event.message is not None:
                break
        assert len(evaluator.judged) == 1, "the device is not free yet"
        evaluator.lets_go.set()
        job = await cancelling
        assert job is not None
        assert job.state is JobState.CANCELLED
        assert job.verdict is None
        assert job.report is not None
        assert job.report.phase is Phase.CHECK, "what was known of it stays"
        evaluator.step()
        assert (await service.wait(following)).state is JobState.COMPLETED
        assert evaluator.cancelled == [job_id]


async def test_a_job_that_has_ended_stays_as_it_is(serve: Serve) -> None:
    async with serve(ScriptedEvaluator()) as service:
        job = await judged(service)
        assert await service.cancel(job.job_id) == job


# Deadlines.


async def test_a_job_that_waited_beyond_its_deadline_fails(serve: Serve, quickly: None) -> None:
    clock = Clock()
    evaluator = ScriptedEvaluator(unready={0})
    async with serve(evaluator, clock=clock, max_deadline=60) as service:
        hurried = await submit(service, deadline=10)
        patient = await submit(service, deadline=1000)
        clock.now += 10
        job = await service.wait(hurried)
        assert job.state is JobState.FAILED
        assert "10 s" in (job.error or "")
        clock.now += 49
        assert (await service.wait(patient, timeout=0)).state is JobState.QUEUED
        clock.now += 1
        assert (await service.wait(patient)).state is JobState.FAILED
    assert evaluator.judged == []


async def test_a_job_that_runs_beyond_its_deadline_is_ended(serve: Serve, quickly: None) -> None:
    clock = Clock()
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serve(evaluator, clock=clock) as service:
        job_id = await submit(service, deadline=10)
        await in_state(service, job_id, JobState.VALIDATING)
        clock.now += 10
        job = await service.wait(job_id)
    assert job.state is JobState.FAILED
    assert job.error == "deadline: the job did not end within 10 s of its submission"
    assert evaluator.cancelled == [job_id]
    assert job.report is not None
    assert job.report.verdict is Verdict.INTERNAL_ERROR


# Stopping, dying, resuming.


async def test_a_stopping_server_puts_its_jobs_back_for_the_next(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,), capacity=1)
    service = serve(evaluator)
    await service.start()
    running, waiting = await submit(service), await submit(service)
    await in_state(service, running, JobState.VALIDATING)
    waits = [asyncio.create_task(service.wait(job_id)) for job_id in (running, waiting)]
    stream = asyncio.create_task(history(service, running))
    await asyncio.sleep(0)
    await service.stop()
    for released in (*waits, stream):
        with pytest.raises(Draining, match="next one"):
            await released
    with pytest.raises(Draining):
        await submit(service)
    with pytest.raises(Draining):
        await service.wait(waiting)
    with pytest.raises(Draining):
        await service.check()
    assert evaluator.cancelled == [running]

    successor = ScriptedEvaluator()
    async with serve(successor) as service:
        for job_id in (running, waiting):
            assert (await service.wait(job_id)).state is JobState.COMPLETED
        events = await history(service, running)
    # Claimed beside each other: either may have begun first.
    assert sorted(judged_id for judged_id, _ in successor.judged) == sorted([running, waiting])
    assert [event.message for event in events if event.message] == ["its server was stopped"]


async def test_stopping_with_grace_lets_a_job_end(serve: Serve) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,))
    service = serve(evaluator)
    await service.start()
    job_id = await submit(service)
    await in_state(service, job_id, JobState.COMPILING)
    waiter = asyncio.create_task(service.wait(job_id))
    stopping = asyncio.create_task(service.stop(grace=60))
    await until(lambda: service.draining)
    evaluator.step()
    assert (await waiter).state is JobState.COMPLETED
    await stopping


async def test_what_a_killed_server_left_is_resumed_at_the_next_start(
    serve: Serve, store: SqlStore
) -> None:
    link = Link(store)
    killed = serve(ScriptedEvaluator(steps=(Phase.CHECK,), capacity=1), store=link)
    await killed.start()
    running, waiting = await submit(killed), await submit(killed)
    await in_state(killed, running, JobState.VALIDATING)
    link.dead = True
    async with serve(ScriptedEvaluator()) as service:
        jobs = [await service.wait(job_id) for job_id in (running, waiting)]
        events = await history(service, running)
    assert all(job.state is JobState.COMPLETED for job in jobs)
    assert [job.attempts for job in jobs] == [2, 1]
    assert [event.state for event in events].count(JobState.COMPLETED) == 1


async def test_a_job_that_kills_every_server_is_given_up(serve: Serve, store: SqlStore) -> None:
    links = [Link(store) for _ in range(2)]
    killed = serve(ScriptedEvaluator(steps=(Phase.CHECK,)), store=links[0], max_attempts=2)
    await killed.start()
    job_id = await submit(killed)
    await in_state(killed, job_id, JobState.VALIDATING)
    links[0].dead = True
    killed = serve(ScriptedEvaluator(steps=(Phase.CHECK,)), store=links[1], max_attempts=2)
    await killed.start()
    await until(lambda: killed.queue()["running"] == 1)
    async for event in killed.events(job_id, after=4):
        if event.state is JobState.VALIDATING:
            break
    links[1].dead = True
    async with serve(ScriptedEvaluator(), max_attempts=2) as service:
        job = await service.wait(job_id)
    assert job.state is JobState.FAILED
    assert "last of 2 attempts" in (job.error or "")


# Two servers on one database.


async def test_another_server_takes_over_after_the_lease_and_the_late_verdict_is_void(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    shared = Link(store, exclusive=False)
    now, later = Clock(), Clock()
    slow = ScriptedEvaluator(steps=(Phase.CHECK,), capacity=1)
    quick = ScriptedEvaluator(
        lambda request: accepted(request).model_copy(update={"seed": 4711}),
        steps=(Phase.CHECK,),
    )
    async with serve(slow, store=shared, clock=now, lease_seconds=1000) as late:
        job_id = await submit(late)
        await in_state(late, job_id, JobState.VALIDATING)
        # It gives no sign of life before its lease is over.
        later.now += 1000
        async with serve(quick, store=shared, clock=later, lease_seconds=1) as service:
            await until(lambda: bool(quick.judged))
            slow.step()
            await until(lambda: late.queue()["running"] == 0)
            quick.step()
            job = await service.wait(job_id)
            assert await late.wait(job_id) == job, "the first server tells the same"
            events = await history(late, job_id)
    assert job.report is not None
    assert job.report.seed == 4711
    assert job.attempts == 2
    assert [event.state for event in events].count(JobState.COMPLETED) == 1


async def test_a_server_that_lost_a_lease_takes_the_job_from_its_judge(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    shared = Link(store, exclusive=False)
    later = Clock()
    losing, taking = (ScriptedEvaluator(steps=(Phase.CHECK,)) for _ in range(2))
    async with serve(losing, store=shared, clock=Clock(), lease_seconds=1) as loser:
        job_id = await submit(loser)
        await in_state(loser, job_id, JobState.VALIDATING)
        later.now += 1000
        async with serve(taking, store=shared, clock=later, lease_seconds=1):
            await until(lambda: bool(taking.judged))
            await until(lambda: losing.cancelled == [job_id])


async def test_a_job_of_another_server_can_be_waited_for_followed_and_cancelled(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    running = ScriptedEvaluator(steps=(Phase.CHECK, Phase.PROFILE))
    idle = ScriptedEvaluator(unready={0})
    shared = Link(store, exclusive=False)
    async with serve(running, store=shared) as here, serve(idle, store=shared) as there:
        ended, cancelled = await submit(there), await submit(there)
        for job_id in (ended, cancelled):
            await in_state(here, job_id, JobState.VALIDATING)
        waiter = asyncio.create_task(there.wait(ended))
        stream = asyncio.create_task(history(there, ended))
        asked = await there.cancel(cancelled)
        assert asked is not None
        assert asked.cancel_requested
        assert (await there.wait(cancelled)).state is JobState.CANCELLED
        assert running.cancelled == [cancelled]
        running.step(2)
        assert (await waiter).state is JobState.COMPLETED
        assert (await stream)[-1].state is JobState.COMPLETED


async def test_two_servers_share_a_queue_and_judge_each_job_once(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    evaluators = [ScriptedEvaluator(capacity=1) for _ in range(2)]
    shared = Link(store, exclusive=False)
    async with serve(evaluators[0], store=shared) as one, serve(evaluators[1], store=shared) as two:
        jobs = [job for job, _ in await one.submit_all([Submission(EVALUATE)] * 40)]
        for job in jobs:
            assert (await two.wait(job.job_id)).state is JobState.COMPLETED
    judged = [job_id for evaluator in evaluators for job_id, _ in evaluator.judged]
    assert sorted(judged) == sorted(job.job_id for job in jobs)


# The database.


async def test_a_short_outage_of_the_database_loses_no_verdict(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    link = Link(store)
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serve(evaluator, store=link) as service:
        job_id = await submit(service)
        await in_state(service, job_id, JobState.VALIDATING)
        waiter = asyncio.create_task(service.wait(job_id))
        link.down = True
        with pytest.raises(DatabaseUnusable):
            await submit(service)
        with pytest.raises(DatabaseUnusable):
            await service.check()
        link.refused.clear()
        evaluator.step()
        await link.refused.wait()
        link.down = False
        job = await waiter
        evaluator.step()
        assert (await judged(service)).state is JobState.COMPLETED
    assert (job.state, job.attempts) == (JobState.COMPLETED, 1)


async def test_after_a_long_outage_the_job_is_begun_again(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    clock = Clock()
    link = Link(store)
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serve(evaluator, store=link, clock=clock, lease_seconds=1) as service:
        job_id = await submit(service)
        await in_state(service, job_id, JobState.VALIDATING)
        waiter = asyncio.create_task(service.wait(job_id))
        link.down = True
        clock.now += 1
        await until(lambda: evaluator.cancelled == [job_id])
        link.down = False
        evaluator.step()
        job = await waiter
    assert (job.state, job.attempts) == (JobState.COMPLETED, 2)


async def test_a_job_whose_lease_ran_out_at_its_own_server_is_begun_again(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    clock = Clock()

    class Late(Link):
        late = False

        async def recover(self, *arguments: Any, **named: Any) -> Any:
            if self.late:  # the machine slept after the leases were renewed
                self.late = False
                clock.now += 1000
                arguments = (clock.now, *arguments[1:])
            return await store.recover(*arguments, **named)

    link = Late(store)
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK, Phase.PROFILE))
    async with serve(evaluator, store=link, clock=clock, lease_seconds=1) as service:
        job_id = await submit(service)
        await in_state(service, job_id, JobState.VALIDATING)
        link.late = True
        await in_state_again(service, job_id, JobState.QUEUED)
        evaluator.step(4)
        job = await service.wait(job_id)
    assert (job.state, job.attempts) == (JobState.COMPLETED, 2)


async def test_a_job_whose_claim_fails_for_a_reason_of_its_own_is_taken_up_again(
    serve: Serve, store: SqlStore
) -> None:
    class Mistaken(Link):
        mistakes = 1

        async def claim(self, *arguments: Any) -> Any:
            if self.mistakes:
                self.mistakes -= 1
                raise RuntimeError("a mistake of the store's")
            return await store.claim(*arguments)

    async with serve(ScriptedEvaluator(), store=Mistaken(store), lease_seconds=1) as service:
        assert (await judged(service)).state is JobState.COMPLETED


async def test_an_end_that_the_database_stored_without_saying_so_is_told(
    serve: Serve, store: SqlStore, quickly: None
) -> None:
    class Mute(Link):
        answers = 0

        async def finish(self, *arguments: Any, **named: Any) -> Any:
            ended = await store.finish(*arguments, **named)
            self.answers += 1
            if self.answers == 1:
                raise DatabaseUnusable("the connection was lost after the commit")
            return ended

    evaluator = ScriptedEvaluator()
    async with serve(evaluator, store=Mute(store)) as service:
        job = await judged(service)
        assert (job.state, job.attempts) == (JobState.COMPLETED, 1)
        await until(lambda: service.queue()["running"] == service.queue()["waiting"] == 0)
    assert len(evaluator.judged) == 1


# Cleaning up.


async def test_a_cleanup_drops_only_jobs_that_ended_long_ago(serve: Serve) -> None:
    clock = Clock()
    async with serve(ScriptedEvaluator(), clock=clock) as service:
        old = await judged(service)
        clock.now += 299
        recent = await judged(service)
        assert await service.cleanup() == 0
        clock.now += 1
        assert await service.cleanup() == 1
        assert await service.get(old.job_id) is None
        assert await service.get(recent.job_id) is not None


async def test_the_background_cleanup_drops_what_is_older_than_the_retention(
    serve: Serve,
) -> None:
    async with serve(ScriptedEvaluator(), job_retention=0, cleanup_interval=0.001) as service:
        job = await judged(service)
        while await service.get(job.job_id) is not None:
            await asyncio.sleep(0.001)
        assert (await service.job_stats())["total_jobs"] == 0


async def test_the_request_of_a_finished_job_is_not_kept_in_memory(serve: Serve) -> None:
    evaluator = ScriptedEvaluator()
    async with serve(evaluator) as service:
        job = await judged(service)
        kept = weakref.ref(evaluator.requests.pop())
        await until(lambda: service.queue()["running"] == 0)
        gc.collect()
        assert kept() is None
        assert await service.request(job.job_id) == EVALUATE
