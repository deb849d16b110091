"""No job is lost and none has two verdicts, whoever dies and however many servers race."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from scripted import accepted, partial
from stores import add, evaluate_request, lease, new_job

from kerneljudge.schema import Phase, Verdict
from kerneljudge.service.errors import DatabaseUnusable
from kerneljudge.service.records import ACTIVE, Job, JobState, Lease
from kerneljudge.service.store import Renewal, SqlStore, StoreLimits
from kerneljudge.service.store.database import Database

pytest_plugins = ["postgres"]
pytestmark = pytest.mark.integration

T = TypeVar("T")

REQUEST = evaluate_request()
LEASE_SECONDS = 10
MAX_ATTEMPTS = 3
RUNNING = {
    Phase.BUILD: JobState.COMPILING,
    Phase.CHECK: JobState.VALIDATING,
    Phase.PROFILE: JobState.PROFILING,
}


@dataclass
class Expected:
    """What must be true of one job."""

    state: JobState = JobState.QUEUED
    attempts: int = 0
    token: str | None = None
    expires_at: float = 0
    cancelled: bool = False
    speedup: float | None = None
    """What tells its report from every other."""

    def let_go(self) -> None:
        self.token = None
        if self.cancelled:
            self.state = JobState.CANCELLED
        else:
            self.state, self.speedup = JobState.QUEUED, None


class StoreMachine(RuleBasedStateMachine):
    """Servers with leases old and new, clients, and time that passes, in any order."""

    jobs: Bundle[str] = Bundle("jobs")
    leases: Bundle[tuple[str, str]] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = self.run(SqlStore.open("sqlite://"))
        self.now = 1000.0
        self.expected: dict[str, Expected] = {}
        self.submissions: dict[str, str] = {}
        self.final: dict[str, Job] = {}
        self.drawn = 0

    def run(self, call: Awaitable[T]) -> T:
        async def called() -> T:
            return await call

        return self.runner.run(called())

    def draw(self) -> int:
        self.drawn += 1
        return self.drawn

    def holds(self, held: tuple[str, str]) -> bool:
        return self.expected[held[0]].token == held[1]

    @rule(target=jobs, names=st.lists(st.sampled_from("abcd") | st.none(), min_size=1, max_size=3))
    def create(self, names: list[str | None]) -> Any:
        jobs = [new_job(created_at=self.now, idempotency_key=name) for name in names]
        results = self.run(
            self.store.create([(job, REQUEST) for job in jobs], StoreLimits(max_queued=1000))
        )
        for job, (stored, new) in zip(jobs, results, strict=True):
            name = job.idempotency_key
            assert new == (name is None or name not in self.submissions)
            if new:
                self.expected[job.job_id] = Expected()
            if name is not None:
                assert stored.job_id == self.submissions.setdefault(name, job.job_id)
        return multiple(*(stored.job_id for stored, _ in results))

    @rule(target=leases, job=jobs)
    def claim(self, job: str) -> Any:
        expected, token = self.expected[job], f"token-{self.draw()}"
        taken = Lease("server", token, self.now + LEASE_SECONDS)
        claimed = self.run(self.store.claim(job, taken, self.now))
        assert (claimed is not None) == (expected.state is JobState.QUEUED)
        if claimed is not None:
            assert claimed[1] == REQUEST
            expected.state, expected.attempts = JobState.SUBMITTED, expected.attempts + 1
            expected.token, expected.expires_at = token, taken.expires_at
        return (job, token)

    @rule(held=leases, phase=st.sampled_from(list(RUNNING)))
    def progress(self, held: tuple[str, str], phase: Phase) -> None:
        speedup = float(self.draw())
        report = partial(REQUEST, phase).model_copy(update={"speedup": speedup})
        kept = self.run(
            self.store.progress(
                *held,
                RUNNING[phase],
                report,
                device=0,
                device_name="cpu",
                started_at=self.now,
                acquired_at=None,
                now=self.now,
            )
        )
        assert kept == self.holds(held)
        if kept:
            expected = self.expected[held[0]]
            expected.state, expected.speedup = RUNNING[phase], speedup

    @rule(held=leases, failing=st.booleans())
    def finish(self, held: tuple[str, str], failing: bool) -> None:
        speedup = float(self.draw())
        report = accepted(REQUEST).model_copy(update={"speedup": speedup})
        state = JobState.FAILED if failing else JobState.COMPLETED
        given = None if failing else report
        done = self.run(
            self.store.finish(*held, state, given, None, device=0, device_name="cpu", now=self.now)
        )
        assert (done is not None) == self.holds(held)
        if done is not None:
            expected = self.expected[held[0]]
            expected.state, expected.token = state, None
            if not failing:
                expected.speedup = speedup
                assert done.verdict is Verdict.ACCEPTED

    @rule(held=leases)
    def release(self, held: tuple[str, str]) -> None:
        released = self.run(self.store.release(*held, "its judge died", self.now))
        assert released == self.holds(held)
        if released:
            self.expected[held[0]].let_go()

    @rule(held=leases)
    def renew(self, held: tuple[str, str]) -> None:
        job, token = held
        expected = self.expected[job]
        renewed = self.run(self.store.renew({job: token}, self.now + LEASE_SECONDS))
        holds = self.holds(held)
        assert renewed == {job: Renewal(holds, holds and expected.cancelled)}
        if holds:
            expected.expires_at = self.now + LEASE_SECONDS

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        expected = self.expected[job]
        found = self.run(self.store.cancel(job, "unwanted", self.now))
        assert found is not None
        if not expected.state.finished:
            expected.cancelled = True
            if expected.state is JobState.QUEUED:
                expected.state = JobState.CANCELLED

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS / 2, LEASE_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(restarted=st.booleans())
    def recover(self, restarted: bool) -> None:
        recovered = self.run(self.store.recover(self.now, MAX_ATTEMPTS, all_leases=restarted))
        due = {
            job: expected
            for job, expected in self.expected.items()
            if expected.token is not None and (restarted or expected.expires_at <= self.now)
        }
        assert {job.job_id for job in recovered} == due.keys()
        for expected in due.values():
            if expected.attempts >= MAX_ATTEMPTS and not expected.cancelled:
                expected.state, expected.token = JobState.FAILED, None
            else:
                expected.let_go()

    @invariant()
    def every_job_is_where_it_is_expected(self) -> None:
        listed = self.run(self.store.get_many(self.expected))
        assert listed.keys() == self.expected.keys()
        for job_id, expected in self.expected.items():
            job = listed[job_id]
            assert (job.state, job.attempts) == (expected.state, expected.attempts)
            assert (job.lease.token if job.lease else None) == expected.token
            assert (job.state in ACTIVE) == (job.lease is not None)

    @invariant()
    def the_queue_is_those_that_wait_in_their_order(self) -> None:
        queued = [job.job_id for job in self.run(self.store.queued(1000))]
        states = self.expected.items()
        assert queued == [job for job, expected in states if expected.state is JobState.QUEUED]

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        for job_id, expected in self.expected.items():
            if expected.state.finished and job_id not in self.final:
                job = self.run(self.store.get(job_id))
                assert job is not None
                assert (job.report.speedup if job.report else None) == expected.speedup
                self.final[job_id] = job
        ended = self.run(self.store.get_many(self.final))
        assert ended == {job_id: replace(job, report=None) for job_id, job in self.final.items()}

    def teardown(self) -> None:
        for job_id, job in self.final.items():
            assert self.run(self.store.get(job_id)) == job
            events = self.run(self.store.events(job_id))
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            assert [event.state.finished for event in events] == [False] * (len(events) - 1) + [
                True
            ]
        self.run(self.store.close())
        self.runner.close()


def test_no_order_of_calls_loses_a_job_or_writes_under_an_old_lease() -> None:
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )


# Races


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_servers_that_race_claim_each_job_once(postgres_url: str) -> None:
    servers = [await SqlStore.open(postgres_url) for _ in range(2)]
    jobs = [new_job() for _ in range(50)]
    await add(servers[0], *jobs)

    async def claim(number: int, job: Job) -> str | None:
        taken = lease(f"{number} {job.job_id}", f"server {number}")
        return taken.token if await servers[number].claim(job.job_id, taken, 1001) else None

    tokens = await asyncio.gather(*(claim(number, job) for job in jobs for number in range(2)))
    claimed = [token for token in tokens if token is not None]
    assert sorted(token.split()[1] for token in claimed) == sorted(job.job_id for job in jobs)
    found = await servers[0].get_many([job.job_id for job in jobs])
    assert {job.lease.token for job in found.values() if job.lease} == set(claimed)
    assert {job.attempts for job in found.values()} == {1}
    for server in servers:
        await server.close()


@pytest.mark.anyio
async def test_a_job_that_ends_while_another_server_takes_it_over_does_one_of_both(
    postgres_url: str,
) -> None:
    holder, other = [await SqlStore.open(postgres_url) for _ in range(2)]
    jobs = [new_job() for _ in range(40)]
    await add(holder, *jobs)
    for job in jobs:
        await holder.claim(job.job_id, lease(), 1001)

    async def finish(job: Job) -> str | None:
        where: dict[str, Any] = {"device": 0, "device_name": "cpu", "now": 2000}
        report = accepted(REQUEST)
        done = await holder.finish(job.job_id, "token", JobState.COMPLETED, report, None, **where)
        return done.job_id if done is not None else None

    async with asyncio.TaskGroup() as together:
        ending, recovering = [], []
        for number, job in enumerate(jobs):
            ending.append(together.create_task(finish(job)))
            if number % 10 == 5:
                recovering.append(together.create_task(other.recover(2000, 3)))
                together.create_task(holder.renew({jobs[-1].job_id: "token"}, 1999))
    finished = {task.result() for task in ending} - {None}
    recovered = [job.job_id for task in recovering for job in task.result()]
    assert len(recovered) == len(set(recovered))
    found = await other.get_many([job.job_id for job in jobs])
    assert {job for job in found if found[job].state is JobState.COMPLETED} == finished
    assert {job for job in found if found[job].state is JobState.QUEUED} == set(recovered)
    assert len(finished) + len(recovered) == len(jobs)
    await holder.close()
    await other.close()


@pytest.mark.anyio
async def test_servers_that_race_keep_a_bound_and_an_idempotency_key(postgres_url: str) -> None:
    servers = [await SqlStore.open(postgres_url) for _ in range(2)]
    bound = StoreLimits(max_queued=5)
    results = await asyncio.gather(
        *(
            server.create([(new_job(idempotency_key=f"{number % 8}"), REQUEST)], bound)
            for number in range(24)
            for server in servers
        ),
        return_exceptions=True,
    )
    created = [result for result in results if not isinstance(result, BaseException)]
    assert sum(new for [(_, new)] in created) == 5
    assert len({job.job_id for [(job, _)] in created}) == 5
    assert (await servers[0].counts()).by_state == {JobState.QUEUED: 5}
    for server in servers:
        await server.close()


@pytest.mark.anyio
async def test_a_server_that_freezes_while_it_has_the_lock_of_all_does_not_stop_the_others(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerneljudge.service.store.database._IDLE_IN_TRANSACTION_SECONDS", 1)
    frozen = await Database.open(postgres_url, serving=True)
    other = await SqlStore.open(postgres_url)
    locked, thawed = threading.Event(), threading.Event()

    def freeze(connection: sa.Connection) -> None:
        Database.one_at_a_time(connection)
        locked.set()
        thawed.wait(60)

    writing = asyncio.create_task(frozen.write(freeze))
    await asyncio.to_thread(locked.wait, 60)
    try:
        async with asyncio.timeout(30):
            await add(other, new_job())
    finally:
        thawed.set()
    with pytest.raises(DatabaseUnusable):
        await writing
    await frozen.read(lambda connection: connection.scalar(sa.select(1)))
    await frozen.close()
    await other.close()


@pytest.mark.anyio
async def test_a_database_that_has_become_read_only_is_unusable(postgres_url: str) -> None:
    await (await SqlStore.open(postgres_url)).close()
    url = sa.make_url(postgres_url).update_query_dict(
        {"options": "-c default_transaction_read_only=on"}
    )
    store = await SqlStore.open(url.render_as_string(hide_password=False))
    with pytest.raises(DatabaseUnusable, match="read-only"):
        await add(store, new_job())
    await store.close()


# Kills

WRITE_UNTIL_KILLED = """
import asyncio, sys
from scripted import accepted, partial
from stores import NO_LIMITS, evaluate_request, lease, new_job
from kerneljudge.schema import Phase
from kerneljudge.service.records import JobState
from kerneljudge.service.store import SqlStore

async def write(store, client):
    number = 0
    while True:
        number += 1
        job, request = new_job(f"{client}-{number}"), evaluate_request(f"number = {number}")
        await store.create([(job, request)], NO_LIMITS)
        print("created", job.job_id, flush=True)
        await store.claim(job.job_id, lease(), 1001)
        where = {"device": 0, "device_name": "cpu", "now": 1002.0}
        await store.progress(
            job.job_id, "token", JobState.COMPILING, partial(request, Phase.BUILD),
            started_at=1001.0, acquired_at=None, **where,
        )
        await store.finish(
            job.job_id, "token", JobState.COMPLETED, accepted(request), None, **where
        )
        print("finished", job.job_id, flush=True)

async def main():
    store = await SqlStore.open(sys.argv[1])
    await asyncio.gather(*(write(store, f"client{client}") for client in range(4)))

asyncio.run(main())
"""


@pytest.mark.anyio
@pytest.mark.parametrize("acknowledged", [7, 100, 211])
async def test_what_a_server_said_before_it_was_killed_is_true_afterwards(
    tmp_path: Path, acknowledged: int
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    support = Path(__file__).parents[1] / "support"
    said: dict[str, set[str]] = {"created": set(), "finished": set()}
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.append({str(support)!r})" + WRITE_UNTIL_KILLED,
            url,
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            what, job_id = line.split()
            said[what].add(job_id)
            if number == acknowledged:
                process.kill()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store = await SqlStore.open(url)
    jobs = await store.get_many(said["created"])
    assert jobs.keys() == said["created"]
    for job_id in said["finished"]:
        job = await store.get(job_id)
        assert job is not None
        assert job.state is JobState.COMPLETED
        assert job.report == accepted(REQUEST)
    for job_id in said["created"]:
        request = await store.request(job_id)
        assert request == evaluate_request(f"number = {job_id.partition('-')[2]}")
    await store.recover(2000, 3, all_leases=True)
    states = (await store.counts()).by_state
    assert states.keys() <= {JobState.QUEUED, JobState.COMPLETED}
    # Four clients may each have one job on its way.
    assert states.get(JobState.QUEUED, 0) <= 4
    await store.close()
