"""The job store keeps jobs, counts them and drops old ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kerneljudge.schema import KernelType
from kerneljudge.service import Job, JobState, MemoryJobStore, SubmittedKernel

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(job_id: str, created_at: float = 1000.0) -> Job:
    return Job(
        job_id=job_id,
        kind="evaluate",
        kernels={"candidate": SubmittedKernel(KernelType.TORCH, {})},
        created_at=created_at,
    )


async def test_a_job_is_found_by_its_id_as_it_was_last_stored() -> None:
    store = MemoryJobStore()
    await store.create(job("a"))
    await store.update(replace(job("a"), state=JobState.PROFILING))
    found = await store.get("a")
    assert found is not None
    assert found.state is JobState.PROFILING
    assert await store.get("b") is None


async def test_an_id_is_taken_once() -> None:
    store = MemoryJobStore()
    await store.create(job("a"))
    with pytest.raises(ValueError, match="there is a job a already"):
        await store.create(job("a"))


async def test_an_unknown_job_is_not_created_by_an_update() -> None:
    store = MemoryJobStore()
    with pytest.raises(KeyError):
        await store.update(job("a"))
    assert await store.get("a") is None


async def test_counts_tell_states_and_mean_age() -> None:
    clock = Clock()
    store = MemoryJobStore(clock)
    assert (await store.counts()).total == 0
    await store.create(job("a", created_at=900))
    await store.create(job("b", created_at=1000))
    await store.create(replace(job("c", created_at=1000), state=JobState.FAILED))
    clock.now = 1100
    counts = await store.counts()
    assert counts.total == 3
    assert counts.by_state == {JobState.SUBMITTED: 2, JobState.FAILED: 1}
    assert counts.average_age == pytest.approx((200 + 100 + 100) / 3)


async def test_only_jobs_that_ended_long_enough_ago_are_removed() -> None:
    clock = Clock()
    store = MemoryJobStore(clock)
    await store.create(job("running", created_at=0))
    for name, end in (("old", 700), ("recent", 701)):
        await store.create(replace(job(name), state=JobState.COMPLETED, finished_at=end))
    assert await store.remove_finished(300) == 1
    assert await store.get("old") is None
    assert await store.get("recent") is not None
    assert await store.get("running") is not None
