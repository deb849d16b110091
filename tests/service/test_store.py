"""The store keeps jobs through their lives, alike in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import accepted, failed, partial
from stores import NO_LIMITS, add, compare_request, evaluate_request, lease, new_job

from kerneljudge.schema import FaultKind, JobReport, KernelType, Phase, Verdict
from kerneljudge.service.access import ApiKey, Scope
from kerneljudge.service.errors import IdempotencyConflict, QueueFull, QuotaExceeded
from kerneljudge.service.records import Job, JobFilter, JobState, QueuedJob, SubmittedKernel
from kerneljudge.service.store import Renewal, SqlStore, StoreLimits

pytest_plugins = ["postgres"]
pytestmark = [pytest.mark.integration, pytest.mark.anyio]

REQUEST = compare_request()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SqlStore]:
    """An empty store in a database of each kind, whose clock stands at 1000."""
    opened = await SqlStore.open(database_url, clock=lambda: 1000.0)
    yield opened
    await opened.close()


async def enter(
    store: SqlStore,
    job: Job,
    phase: Phase | None = None,
    *,
    token: str = "token",
    state: JobState = JobState.COMPILING,
    now: float = 1002.0,
    **values: Any,
) -> bool:
    """Claims a job that waits, or says that a phase of it has begun."""
    if phase is None:
        return await store.claim(job.job_id, lease(token), now) is not None
    defaults: dict[str, Any] = {
        "device": 3,
        "device_name": "cuda:3",
        "started_at": 1001.5,
        "acquired_at": None,
    }
    return await store.progress(
        job.job_id, token, state, partial(REQUEST, phase), now=now, **defaults | values
    )


async def finish(
    store: SqlStore,
    job: Job,
    state: JobState = JobState.COMPLETED,
    report: JobReport | None = None,
    error: str | None = None,
    *,
    token: str = "token",
    now: float = 1010.0,
) -> Job | None:
    return await store.finish(
        job.job_id, token, state, report, error, device=3, device_name="cuda:3", now=now
    )


async def ended(store: SqlStore, job: Job, now: float, **report: Any) -> None:
    """Creates a job and ends it."""
    await add(store, job)
    assert await enter(store, job)
    done = accepted(REQUEST).model_copy(update=report)
    assert await finish(store, job, report=done, now=now)


async def stored(store: SqlStore, job: Job) -> Job:
    found = await store.get(job.job_id)
    assert found is not None
    return found


async def happened(store: SqlStore, job: Job) -> list[tuple[JobState, Phase | None, str | None]]:
    """What the job's events say; their numbers and times are in order."""
    events = await store.events(job.job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert sorted(events, key=lambda event: event.at) == events
    return [(event.state, event.phase, event.message) for event in events]


# Creation


async def test_a_job_is_found_as_it_was_created(store: SqlStore) -> None:
    job = new_job(
        kind="compare",
        kernels={
            "candidate": SubmittedKernel(KernelType.TRITON, {"tile": [32, {"deep": None}]}),
            "reference": SubmittedKernel(KernelType.TORCH, {}),
        },
        client="a client",
        key_id="key-1",
        priority=-3,
        deadline_at=4600.25,
        memory_bytes=2**40,
        idempotency_key="é",
    )
    request = compare_request("x = 'é\\u0000'", seed=2**63 - 1, atol=1e-9)
    assert await store.create([(job, request)], NO_LIMITS) == [(job, True)]
    assert await store.get(job.job_id) == job
    assert await store.request(job.job_id) == request
    assert await happened(store, job) == [(JobState.QUEUED, None, None)]


async def test_nothing_is_found_of_a_job_that_was_never_created(store: SqlStore) -> None:
    await add(store, new_job())
    assert await store.get("none") is None
    assert await store.request("none") is None
    assert await store.events("none") == []
    assert await store.get_many(["none"]) == {}


async def test_many_jobs_are_found_at_once_without_reports(store: SqlStore) -> None:
    first, second, third = (new_job() for _ in range(3))
    await add(store, first, second, third)
    await enter(store, first)
    await enter(store, first, Phase.BUILD)
    found = await store.get_many({first.job_id, third.job_id, "none"})
    assert found.keys() == {first.job_id, third.job_id}
    assert found[first.job_id] == replace(await stored(store, first), report=None)
    assert await store.get_many([]) == {}


async def test_more_jobs_than_may_wait_are_refused_all_together(store: SqlStore) -> None:
    waiting, running, batch = new_job(), new_job(), [new_job() for _ in range(3)]
    await add(store, waiting, running)
    await enter(store, running)
    with pytest.raises(QueueFull, match="1 jobs wait, of at most 3") as refused:
        await store.create([(job, REQUEST) for job in batch], StoreLimits(max_queued=3))
    assert refused.value.retry_after > 0
    assert await store.get_many([job.job_id for job in batch]) == {}
    created = await store.create([(job, REQUEST) for job in batch[:2]], StoreLimits(max_queued=3))
    assert created == [(job, True) for job in batch[:2]]


async def test_a_key_has_at_most_its_quota_of_unfinished_jobs(store: SqlStore) -> None:
    limits = StoreLimits(max_unfinished_of_key=2)
    running, waiting, over = (new_job(key_id="mine") for _ in range(3))
    await add(store, running, waiting)
    await enter(store, running)
    with pytest.raises(QuotaExceeded, match="2 unfinished jobs, of at most 2"):
        await store.create([(over, REQUEST)], limits)
    await store.create([(new_job(key_id="another"), REQUEST)], limits)
    await finish(store, running)
    assert await store.create([(over, REQUEST)], limits) == [(over, True)]


async def test_an_id_is_taken_once(store: SqlStore) -> None:
    import sqlalchemy.exc

    job = new_job()
    await add(store, job)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        await add(store, new_job(), replace(job, client="another"))
    assert [found.job_id for found in (await store.page(JobFilter(), 10)).jobs] == [job.job_id]


async def test_text_that_no_database_can_hold_is_looked_for_in_vain(store: SqlStore) -> None:
    await add(store, new_job())
    for text in ("\0", "\ud800"):
        assert await store.get(text) is None
        assert await store.get_many([text]) == {}
        assert await store.cancel(text, "unwanted", 1001) is None
        assert await store.events(text) == []
        for matching in (JobFilter(client=text), JobFilter(key_id=text)):
            assert (await store.page(matching, 10)).jobs == []
        assert not await store.disable_key(text, 1001)


async def test_a_client_of_any_name_has_its_jobs(store: SqlStore) -> None:
    job = new_job(client="\0\ud800", idempotency_key="\0")
    assert await store.create([(job, REQUEST)], NO_LIMITS) == [(job, True)]
    [(again, new)] = await store.create([(replace(job, job_id="other"), REQUEST)], NO_LIMITS)
    assert (again.job_id, new) == (job.job_id, False)
    [found] = (await store.page(JobFilter(client="\0\ud800"), 10)).jobs
    assert found.job_id == job.job_id


# Idempotency


@pytest.mark.parametrize("key_id", [None, "key"])
async def test_a_second_submission_with_the_same_idempotency_key_is_the_first_job(
    store: SqlStore, key_id: str | None
) -> None:
    first = new_job(idempotency_key="once", key_id=key_id)
    await add(store, first, request=REQUEST)
    await enter(store, first)
    report = accepted(REQUEST)
    await finish(store, first, report=report)
    again = new_job(idempotency_key="once", key_id=key_id)
    # No place in the queue is needed for it.
    [(found, new)] = await store.create([(again, REQUEST)], StoreLimits(max_queued=0))
    assert (found, new) == (await stored(store, first), False)
    assert found.report == report
    assert await store.get(again.job_id) is None


async def test_an_idempotency_key_is_one_clients_alone(store: SqlStore) -> None:
    await add(
        store,
        new_job(idempotency_key="once"),
        new_job(idempotency_key="once", client="another"),
        new_job(idempotency_key="once", key_id="key"),
        new_job(idempotency_key="twice"),
        new_job(),
        new_job(),
    )
    assert (await store.counts()).total == 6


async def test_an_idempotency_key_with_another_request_is_a_conflict(store: SqlStore) -> None:
    first = new_job(idempotency_key="once")
    await add(store, first, request=evaluate_request("a"))
    beside = new_job()
    with pytest.raises(IdempotencyConflict, match=first.job_id):
        await store.create(
            [
                (beside, evaluate_request("b")),
                (new_job(idempotency_key="once"), evaluate_request("b")),
            ],
            NO_LIMITS,
        )
    assert await store.get(beside.job_id) is None


async def test_defaults_that_are_written_out_make_no_other_request(store: SqlStore) -> None:
    first = new_job(idempotency_key="once")
    await add(store, first, request=evaluate_request())
    [(found, new)] = await store.create(
        [
            (
                new_job(idempotency_key="once"),
                evaluate_request(num_trials=100, timeout=120, seed=None),
            )
        ],
        NO_LIMITS,
    )
    assert (found.job_id, new) == (first.job_id, False)


async def test_one_batch_may_name_one_job_twice(store: SqlStore) -> None:
    first, again = new_job(idempotency_key="once"), new_job(idempotency_key="once")
    limits = StoreLimits(max_queued=1, max_unfinished_of_key=1)
    created = await store.create([(first, REQUEST), (again, REQUEST)], limits)
    assert created == [(first, True), (first, False)]
    with pytest.raises(IdempotencyConflict):
        await store.create(
            [
                (new_job(idempotency_key="other"), evaluate_request("a")),
                (new_job(idempotency_key="other"), evaluate_request("b")),
            ],
            NO_LIMITS,
        )


async def test_submissions_at_once_with_one_idempotency_key_make_one_job(store: SqlStore) -> None:
    tries = [new_job(idempotency_key="once") for _ in range(16)]
    created = await asyncio.gather(*(store.create([(job, REQUEST)], NO_LIMITS) for job in tries))
    assert sum(new for [(_, new)] in created) == 1
    assert len({job.job_id for [(job, _)] in created}) == 1
    assert (await store.counts()).total == 1


# The queue


async def test_the_queue_is_in_the_order_of_submission(store: SqlStore) -> None:
    late, early = new_job(created_at=2000.0), new_job(created_at=1000.0)
    await add(store, late)
    await add(store, early)
    facts = new_job(client="c", priority=7, memory_bytes=2**33, deadline_at=1500.5)
    await add(store, facts)
    queue = await store.queued(10)
    assert [job.job_id for job in queue] == [late.job_id, early.job_id, facts.job_id]
    assert queue[2] == QueuedJob(facts.job_id, queue[2].number, "c", 7, 2**33, 1500.5)
    assert queue[0].number < queue[1].number < queue[2].number
    assert await store.queued(2) == queue[:2]


async def test_a_released_job_has_its_old_place_in_the_queue(store: SqlStore) -> None:
    jobs = [new_job() for _ in range(3)]
    await add(store, *jobs)
    before = await store.queued(10)
    await enter(store, jobs[1])
    assert await store.queued(10) == [before[0], before[2]]
    assert await store.release(jobs[1].job_id, "token", "its judge died", 1003)
    assert await store.queued(10) == before


async def test_a_claimed_job_is_leased_and_comes_with_its_request(store: SqlStore) -> None:
    job = new_job(kind="compare")
    await add(store, job, request=REQUEST)
    claimed = await store.claim(job.job_id, lease("mine", "one", 1030.5), 1001)
    expected = replace(
        job,
        state=JobState.SUBMITTED,
        attempts=1,
        lease=lease("mine", "one", 1030.5),
        server="one",
    )
    assert claimed == (expected, REQUEST)
    assert await store.get(job.job_id) == expected
    assert await happened(store, job) == [
        (JobState.QUEUED, None, None),
        (JobState.SUBMITTED, None, None),
    ]


async def test_a_job_is_claimed_once(store: SqlStore) -> None:
    job, cancelled = new_job(), new_job()
    await add(store, job, cancelled)
    await store.cancel(cancelled.job_id, "unwanted", 1000)
    assert await store.claim(job.job_id, lease("mine"), 1001)
    assert await store.claim(job.job_id, lease("theirs"), 1001) is None
    assert await store.claim(cancelled.job_id, lease("theirs"), 1001) is None
    assert await store.claim("none", lease("theirs"), 1001) is None
    assert (await stored(store, job)).lease == lease("mine")
    assert len(await happened(store, job)) == 2


# Progress and the end


async def test_progress_is_kept_and_is_an_event_where_state_or_phase_is_new(
    store: SqlStore,
) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    assert await enter(store, job, Phase.READ)
    assert await enter(store, job, Phase.BUILD)
    assert await enter(store, job, Phase.BUILD, acquired_at=1005.25)
    found = await stored(store, job)
    assert found.report == partial(REQUEST, Phase.BUILD)
    assert (found.state, found.device, found.device_name) == (JobState.COMPILING, 3, "cuda:3")
    assert (found.started_at, found.acquired_at) == (1001.5, 1005.25)
    assert (found.lease, found.verdict, found.finished_at) == (lease(), None, None)
    assert await happened(store, job) == [
        (JobState.QUEUED, None, None),
        (JobState.SUBMITTED, None, None),
        (JobState.COMPILING, Phase.READ, None),
        (JobState.COMPILING, Phase.BUILD, None),
    ]
    assert [event.number for event in await store.events(job.job_id, after=2)] == [3, 4]
    for after in (4, 2**31, 2**100):
        assert await store.events(job.job_id, after) == []
    assert len(await store.events(job.job_id, after=-(2**100))) == 4


async def test_phases_that_passed_before_a_report_was_kept_are_events_too(
    store: SqlStore,
) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    assert await enter(store, job, Phase.READ)
    passed = [(JobState.COMPILING, Phase.BUILD, 1003.0), (JobState.COMPILING, Phase.LOAD, 1004.0)]
    state = JobState.VALIDATING
    assert await enter(store, job, Phase.CHECK, state=state, now=1005.0, passed=passed)
    assert (await stored(store, job)).report == partial(REQUEST, Phase.CHECK)
    events = await store.events(job.job_id, after=3)
    assert [(event.number, event.at, event.state, event.phase) for event in events] == [
        (4, 1003.0, JobState.COMPILING, Phase.BUILD),
        (5, 1004.0, JobState.COMPILING, Phase.LOAD),
        (6, 1005.0, JobState.VALIDATING, Phase.CHECK),
    ]
    assert not await enter(store, job, Phase.PROFILE, token="another", passed=passed)
    assert len(await store.events(job.job_id)) == 6


async def test_jobs_are_numbered_in_the_order_of_submission(store: SqlStore) -> None:
    jobs = [new_job() for _ in range(3)]
    created = await store.create([(job, REQUEST) for job in jobs], NO_LIMITS)
    numbers = [job.number for job, _ in created]
    assert numbers == sorted(set(numbers))
    assert numbers == [job.number for job in await store.queued(10)]
    assert [(await stored(store, job)).number for job in jobs] == numbers


async def test_a_finished_job_has_its_verdict_and_no_lease(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    await enter(store, job, Phase.CHECK, state=JobState.VALIDATING, acquired_at=1003.0)
    report = failed(REQUEST, FaultKind.CRASHED, Phase.CHECK)
    done = await finish(store, job, report=report)
    assert done == replace(
        job,
        state=JobState.COMPLETED,
        attempts=1,
        server="one",
        device=3,
        device_name="cuda:3",
        started_at=1001.5,
        acquired_at=1003.0,
        finished_at=1010.0,
        verdict=Verdict.CRASHED,
        report=report,
    )
    assert await store.get(job.job_id) == done
    assert (await happened(store, job))[-1] == (JobState.COMPLETED, Phase.CHECK, None)


async def test_a_job_that_ends_without_a_report_keeps_its_partial_one(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    await enter(store, job, Phase.BUILD)
    error = "the device\0 died \ud800"
    done = await finish(store, job, JobState.FAILED, None, error)
    assert done is not None
    assert done.report == partial(REQUEST, Phase.BUILD)
    assert (done.verdict, done.error) == (None, "the device\\x00 died \\ud800")
    assert await store.get(job.job_id) == done
    assert (await happened(store, job))[-1] == (JobState.FAILED, Phase.BUILD, done.error)


async def test_a_lease_that_was_replaced_writes_nothing(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job, token="old")
    await store.release(job.job_id, "old", "its judge died", 1003)
    await enter(store, job, token="new", now=1004)
    before, events = await store.get(job.job_id), await happened(store, job)
    report = accepted(REQUEST)
    assert not await enter(store, job, Phase.CHECK, token="old")
    assert await finish(store, job, report=report, token="old") is None
    assert not await store.release(job.job_id, "old", "again", 1005)
    assert await store.renew({job.job_id: "old"}, 9000) == {job.job_id: Renewal(False, False)}
    assert (await store.get(job.job_id), await happened(store, job)) == (before, events)


async def test_an_ended_job_does_not_change_any_more(store: SqlStore) -> None:
    job = new_job()
    await ended(store, job, now=1010)
    before, events = await store.get(job.job_id), await happened(store, job)
    assert not await enter(store, job, Phase.CHECK)
    assert await finish(store, job, JobState.FAILED, None, "late") is None
    assert not await store.release(job.job_id, "token", "late", 1020)
    assert await store.claim(job.job_id, lease("another"), 1020) is None
    assert await store.cancel(job.job_id, "late", 1020) == before
    assert await store.recover(9000, 3, all_leases=True) == []
    assert await store.end_overdue(9000) == []
    assert (await store.get(job.job_id), await happened(store, job)) == (before, events)


async def test_what_a_stopping_server_gives_back_was_no_attempt(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    for attempted, attempts in ((False, 0), (True, 1), (False, 1)):
        assert await store.claim(job.job_id, lease(), 1002)
        given_back = store.release(job.job_id, "token", "it stops", 1003, attempted=attempted)
        assert await given_back
        assert (await stored(store, job)).attempts == attempts


async def test_a_released_job_is_as_it_was_before_but_for_its_attempts(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    await enter(store, job, Phase.CHECK, state=JobState.VALIDATING, acquired_at=1003.0)
    assert await store.release(job.job_id, "token", "its judge died", 1005)
    assert await store.get(job.job_id) == replace(job, attempts=1)
    assert (await happened(store, job))[-1] == (JobState.QUEUED, None, "its judge died")
    assert await store.claim(job.job_id, lease("next"), 1006)
    assert (await stored(store, job)).attempts == 2


# Leases


async def test_renewing_tells_of_each_lease_what_became_of_it(store: SqlStore) -> None:
    held, wanted_no_more, lost, waiting = (new_job() for _ in range(4))
    await add(store, held, wanted_no_more, lost, waiting)
    for job in (held, wanted_no_more, lost):
        await enter(store, job)
    await store.cancel(wanted_no_more.job_id, "unwanted", 1003)
    leases = dict.fromkeys([held.job_id, wanted_no_more.job_id, waiting.job_id, "none"], "token")
    assert await store.renew(leases | {lost.job_id: "another"}, 1060) == {
        held.job_id: Renewal(held=True, cancel_requested=False),
        wanted_no_more.job_id: Renewal(held=True, cancel_requested=True),
        lost.job_id: Renewal(held=False, cancel_requested=False),
        waiting.job_id: Renewal(held=False, cancel_requested=False),
        "none": Renewal(held=False, cancel_requested=False),
    }
    assert (await stored(store, held)).lease == lease(expires_at=1060)
    assert (await stored(store, lost)).lease == lease(expires_at=1030)
    assert await store.renew({}, 1060) == {}


async def test_jobs_whose_lease_has_expired_are_queued_again(store: SqlStore) -> None:
    expired, renewed, waiting = (new_job() for _ in range(3))
    await add(store, expired, renewed, waiting)
    queue = await store.queued(10)
    for job in (expired, renewed):
        await enter(store, job)
        await enter(store, job, Phase.BUILD)
    await store.renew({renewed.job_id: "token"}, 1060)
    assert await store.recover(1029, 3) == []
    recovered = await store.recover(1030, 3)
    assert recovered == [replace(expired, attempts=1)]
    assert await store.get(expired.job_id) == recovered[0]
    assert await store.queued(10) == [queue[0], queue[2]]
    state, phase, message = (await happened(store, expired))[-1]
    assert (state, phase) == (JobState.QUEUED, None)
    assert message is not None
    assert "server one" in message
    assert await finish(store, expired, report=accepted(REQUEST)) is None
    assert await finish(store, renewed, report=accepted(REQUEST)) is not None


async def test_every_leased_job_is_taken_over_from_servers_that_are_known_to_be_dead(
    store: SqlStore,
) -> None:
    leased, waiting = new_job(), new_job()
    await add(store, leased, waiting)
    await enter(store, leased)
    assert await store.recover(1003, 3, all_leases=True) == [replace(leased, attempts=1)]
    assert len(await store.queued(10)) == 2


async def test_a_job_that_was_begun_often_enough_fails(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    for attempt in range(2):
        now = 1100.0 * (attempt + 1)
        await store.claim(job.job_id, lease(expires_at=now + 30), now)
        await enter(store, job, Phase.LOAD, now=now)
        [recovered] = await store.recover(now + 30, 2)
        assert recovered == await store.get(job.job_id)
    assert (recovered.state, recovered.finished_at) == (JobState.FAILED, 2230)
    assert recovered.report == partial(REQUEST, Phase.LOAD)
    assert recovered.error is not None
    assert "last of 2 attempts" in recovered.error


# Cancelling


async def test_a_queued_job_is_cancelled_at_once(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    cancelled = await store.cancel(job.job_id, "unwanted", 1001)
    assert cancelled == await store.get(job.job_id)
    assert cancelled == replace(
        job, state=JobState.CANCELLED, finished_at=1001, error="unwanted", cancel_requested=True
    )
    assert await store.queued(10) == []
    assert (await happened(store, job))[-1] == (JobState.CANCELLED, None, "unwanted")


async def test_cancelling_a_running_job_asks_for_its_end(store: SqlStore) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    await enter(store, job, Phase.BUILD)
    asked = await store.cancel(job.job_id, "unwanted", 1005)
    assert asked == replace(asked, state=JobState.COMPILING, cancel_requested=True, lease=lease())
    assert asked == await store.get(job.job_id)
    assert await store.cancel(job.job_id, "unwanted twice", 1006) == asked
    assert (await happened(store, job))[-1] == (JobState.COMPILING, Phase.BUILD, "unwanted")
    done = await finish(store, job, JobState.CANCELLED, None, "unwanted")
    assert done is not None
    assert (done.state, done.lease) == (JobState.CANCELLED, None)


@pytest.mark.parametrize("recovered", [False, True])
async def test_a_job_that_is_to_be_cancelled_is_not_queued_again(
    store: SqlStore, recovered: bool
) -> None:
    job = new_job()
    await add(store, job)
    await enter(store, job)
    await enter(store, job, Phase.BUILD)
    await store.cancel(job.job_id, "unwanted", 1005)
    if recovered:
        assert len(await store.recover(1006, 1, all_leases=True)) == 1
    else:
        assert await store.release(job.job_id, "token", "its judge died", 1006)
    found = await stored(store, job)
    assert (found.state, found.error, found.lease) == (JobState.CANCELLED, "unwanted", None)
    assert (found.finished_at, found.report) == (1006, partial(REQUEST, Phase.BUILD))


async def test_an_unknown_job_cannot_be_cancelled(store: SqlStore) -> None:
    assert await store.cancel("none", "unwanted", 1000) is None


async def test_jobs_that_wait_past_their_deadline_fail(store: SqlStore) -> None:
    overdue, running, patient = new_job(deadline_at=1060), new_job(deadline_at=1060), new_job()
    await add(store, overdue, running, patient)
    await enter(store, running)
    assert await store.end_overdue(1059) == []
    [failed_job] = await store.end_overdue(1060)
    assert failed_job == await store.get(overdue.job_id)
    assert (failed_job.state, failed_job.finished_at) == (JobState.FAILED, 1060)
    assert failed_job.error is not None
    assert "60 s after" in failed_job.error
    assert (await stored(store, running)).state is JobState.SUBMITTED
    assert (await stored(store, patient)).state is JobState.QUEUED


# Listings


async def test_pages_are_newest_first_and_stable_while_jobs_are_added(store: SqlStore) -> None:
    jobs = [new_job() for _ in range(5)]
    await add(store, *jobs)
    first = await store.page(JobFilter(), 2)
    assert first.jobs == [jobs[4], jobs[3]]
    await add(store, new_job())
    second = await store.page(JobFilter(), 2, first.next_cursor)
    assert second.jobs == [jobs[2], jobs[1]]
    last = await store.page(JobFilter(), 2, second.next_cursor)
    assert (last.jobs, last.next_cursor) == ([jobs[0]], None)


async def test_a_page_that_ends_with_the_last_job_has_no_cursor(store: SqlStore) -> None:
    await add(store, new_job(), new_job())
    assert (await store.page(JobFilter(), 2)).next_cursor is None


async def test_what_is_no_cursor_is_refused(store: SqlStore) -> None:
    too_large, minus_one = "OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "LTE"
    for cursor in ("", "x", "0", "MA", "é", "MQ==", too_large, minus_one):
        with pytest.raises(ValueError, match="is no cursor"):
            await store.page(JobFilter(), 2, cursor)


async def test_a_listing_has_what_fits_every_field(store: SqlStore) -> None:
    await add(store, new_job("a", created_at=100.0))
    await add(store, new_job("b", created_at=200.0, kind="compare", client="other"))
    await enter(store, new_job("b"))
    await ended(store, new_job("c", created_at=300.0, client="other", key_id="key"), now=1000)
    await ended(
        store, new_job("d", created_at=400.0, key_id="key"), 1000, verdict=Verdict.WRONG_ANSWER
    )
    for matching, expected in (
        (JobFilter(), "abcd"),
        (JobFilter(states=frozenset({JobState.QUEUED, JobState.SUBMITTED})), "ab"),
        (JobFilter(states=frozenset()), ""),
        (JobFilter(kind="compare"), "b"),
        (JobFilter(verdict=Verdict.WRONG_ANSWER), "d"),
        (JobFilter(client="other"), "bc"),
        (JobFilter(key_id="key"), "cd"),
        (JobFilter(client="other", key_id="key"), "c"),
        (JobFilter(created_after=200), "bcd"),
        (JobFilter(created_before=200), "a"),
        (JobFilter(created_after=200, created_before=400), "bc"),
    ):
        page = await store.page(matching, 10)
        assert [job.job_id for job in reversed(page.jobs)] == list(expected), matching
        assert all(job.report is None for job in page.jobs)


async def test_counts_tell_states_and_mean_age(store: SqlStore) -> None:
    assert (await store.counts()).total == 0
    await add(store, new_job(created_at=700.0, key_id="key"))
    await ended(store, new_job(created_at=900.0, key_id="key"), now=1000)
    await add(store, new_job(created_at=950.0))
    counts = await store.counts()
    assert counts.total == 3
    assert counts.by_state == {JobState.QUEUED: 2, JobState.COMPLETED: 1}
    assert counts.average_age == pytest.approx((300 + 100 + 50) / 3)
    of_key = await store.counts("key")
    assert (of_key.total, of_key.by_state[JobState.QUEUED]) == (2, 1)
    assert of_key.average_age == pytest.approx(200)
    assert (await store.counts("none")).by_state == {}


async def test_only_jobs_that_ended_long_enough_ago_are_removed(store: SqlStore) -> None:
    old, recent, running, waiting = (new_job(created_at=0.0) for _ in range(4))
    await ended(store, old, now=700)
    await ended(store, recent, now=701)
    await add(store, running, waiting)
    await enter(store, running)
    assert await store.remove_finished(700) == 1
    assert await store.get_many([job.job_id for job in (old, recent, running, waiting)]) == {
        job.job_id: replace(await stored(store, job), report=None)
        for job in (recent, running, waiting)
    }
    assert await store.request(old.job_id) is None
    assert await store.events(old.job_id) == []
    # Its id, and all that went with it, can be used anew.
    await ended(store, old, now=800)


async def test_any_number_of_jobs_is_removed(store: SqlStore) -> None:
    await add(store, *(new_job(deadline_at=1001.0) for _ in range(1100)))
    assert len(await store.end_overdue(1001)) == 1100
    assert await store.remove_finished(1001) == 1100
    assert (await store.counts()).total == 0


async def test_a_new_job_never_gets_the_place_of_a_removed_one(store: SqlStore) -> None:
    jobs = [new_job(), new_job()]
    await add(store, *jobs)
    last = (await store.queued(10))[1].number
    for job in jobs:
        await store.cancel(job.job_id, "unwanted", 1000)
    await store.remove_finished(1000)
    await add(store, new_job())
    assert (await store.queued(10))[0].number > last


# What is stored comes back


_METADATA = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        # JSON text can have lone surrogates and NUL, which a database's text cannot.
        | st.text(st.characters() | st.sampled_from("\0\ud800"), max_size=10),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.just("\0"), max_size=20)


@given(
    metadata=_METADATA,
    stdout=_TEXT,
    message=_TEXT,
    speedup=st.floats(allow_nan=False) | st.none(),
    seed=st.integers(0, 2**63 - 1),
    report=st.sampled_from(
        [
            accepted(REQUEST),
            failed(REQUEST, FaultKind.TIMEOUT, Phase.PROFILE, "reference"),
            partial(REQUEST, Phase.LOAD),
        ]
    ),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_requests_and_reports_come_back_exactly(
    store: SqlStore,
    metadata: dict[str, Any],
    stdout: str,
    message: str,
    speedup: float | None,
    seed: int,
    report: JobReport,
) -> None:
    kernel = REQUEST.custom_kernel.model_copy(update={"metadata": metadata})
    request = REQUEST.model_copy(update={"custom_kernel": kernel, "seed": seed})
    report = report.model_copy(
        update={
            "candidate": report.candidate.model_copy(update={"stdout": stdout}),
            "speedup": speedup,
            "error": message,
        }
    )
    job = new_job(
        kind="compare", kernels={"candidate": SubmittedKernel(KernelType.TORCH, metadata)}
    )
    await add(store, job, request=request)
    claimed = await store.claim(job.job_id, lease(), 1001)
    assert claimed is not None
    assert claimed[0].kernels == job.kernels
    assert claimed[1] == request
    done = await finish(store, job, report=report)
    assert done is not None
    assert done.report == report
    assert await store.get(job.job_id) == done


async def test_what_is_not_finite_comes_back_so(store: SqlStore) -> None:
    job = new_job()
    metadata = {"values": [float("nan"), float("-inf")]}
    request = evaluate_request()
    request.kernel.metadata = metadata
    await add(store, job, request=request)
    claimed = await store.claim(job.job_id, lease(), 1001)
    assert claimed is not None
    assert claimed[1] == request.model_copy(update={"kernel": claimed[1].kernel})
    assert repr(claimed[1].kernel) == repr(request.kernel)
    report = accepted(REQUEST).model_copy(update={"speedup": float("inf")})
    done = await finish(store, job, report=report)
    assert done is not None
    assert done.report == report


# Keys


def api_key(key_id: str, name: str, **values: Any) -> ApiKey:
    defaults: dict[str, Any] = {
        "digest": f"digest of {key_id}",
        "scopes": frozenset({Scope.READ}),
        "created_at": 1000.0,
    }
    return ApiKey(key_id, name, **defaults | values)


async def test_a_key_is_found_by_its_digest_as_it_was_added(store: SqlStore) -> None:
    key = api_key(
        "id",
        "training loop",
        scopes=frozenset(Scope),
        weight=0.5,
        max_unfinished=7,
        requests_per_minute=600,
        max_priority=-1,
    )
    await store.add_key(key)
    assert await store.find_key(key.digest) == key
    assert await store.find_key("another") is None


async def test_keys_are_listed_oldest_first(store: SqlStore) -> None:
    late, early = api_key("a", "late", created_at=2000.0), api_key("b", "early")
    await store.add_key(late)
    await store.add_key(early)
    assert await store.keys() == [early, late]


async def test_an_enabled_keys_name_is_taken_and_a_disabled_ones_is_free(store: SqlStore) -> None:
    first, second = api_key("a", "name"), api_key("b", "name")
    await store.add_key(first)
    with pytest.raises(ValueError, match="there is a key name already"):
        await store.add_key(second)
    assert await store.disable_key("a", 1100)
    await store.add_key(second)
    assert await store.keys() == [replace(first, disabled_at=1100), second]


async def test_a_key_is_disabled_once_and_for_good(store: SqlStore) -> None:
    await store.add_key(api_key("a", "name"))
    assert await store.disable_key("a", 1100)
    assert await store.disable_key("a", 1200)
    [key] = await store.keys()
    assert key.disabled_at == 1100
    assert await store.find_key(key.digest) == key
    assert not await store.disable_key("none", 1100)
