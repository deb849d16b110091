"""Who goes next, and where to: priorities, fair shares, memory, capacity."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.service.evaluator import DeviceState
from kerneljudge.service.records import QueuedJob
from kerneljudge.service.scheduler import Assignment, Scheduler

pytestmark = pytest.mark.unit

GIB = 2**30


def device(index: int = 0, capacity: int = 1, memory: int | None = None, ready: bool = True):
    return DeviceState(index, f"cuda:{index}", ready, None, capacity=capacity, memory_bytes=memory)


class Queue:
    """A scheduler with a way to write jobs shortly."""

    def __init__(self, *devices: DeviceState) -> None:
        self.scheduler = Scheduler()
        self.devices = list(devices) or [device()]
        self.numbers = itertools.count(1)

    def add(
        self, job_id: str, client: str = "a", *, priority: int = 0, gib: int = 0, number: int = 0
    ) -> None:
        self.scheduler.add(
            QueuedJob(job_id, number or next(self.numbers), client, priority, gib * GIB, None)
        )

    def next(self) -> Assignment | None:
        return self.scheduler.next(self.devices)

    def handed_out(self) -> dict[str, int]:
        """The jobs that can go now, with their devices."""
        found = {}
        while assignment := self.next():
            found[assignment.job.job_id] = assignment.device
        return found

    def run_all(self, seconds: float | dict[str, float] = 1.0) -> list[str]:
        """Runs one job after the other until none waits: their order."""
        order = []
        while assignment := self.next():
            job = assignment.job
            order.append(job.job_id)
            took = seconds if isinstance(seconds, float) else seconds[job.client]
            self.scheduler.ended(job.job_id, took)
        return order


def names(client: str, count: int) -> list[str]:
    return [f"{client}{number}" for number in range(count)]


def test_one_client_goes_in_the_order_of_submission() -> None:
    queue = Queue()
    queue.add("late", number=9)
    queue.add("early", number=2)
    queue.add("middle", number=5)
    assert queue.run_all() == ["early", "middle", "late"]


def test_a_higher_priority_goes_first_whoever_has_had_less() -> None:
    queue = Queue()
    for job in names("a", 3):
        queue.add(job, "a", priority=1)
    queue.add("b", "b")
    queue.add("low", "c", priority=-1)
    assert queue.run_all() == ["a0", "a1", "a2", "b", "low"]


def test_clients_alternate_whatever_the_lengths_of_their_queues() -> None:
    queue = Queue()
    for job in names("a", 6):
        queue.add(job, "a")
    for job in names("b", 2):
        queue.add(job, "b")
    assert queue.run_all() == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_clients_alternate_while_nothing_has_ended_yet() -> None:
    queue = Queue(device(capacity=4))
    for job in names("a", 6) + names("b", 6):
        queue.add(job, job[0])
    assert Counter(job[0] for job in queue.handed_out()) == {"a": 2, "b": 2}


def test_the_time_that_jobs_take_is_shared_and_not_their_number() -> None:
    queue = Queue()
    for job in names("a", 40) + names("b", 40):
        queue.add(job, job[0])
    first = queue.run_all({"a": 3.0, "b": 1.0})[:32]
    assert Counter(job[0] for job in first) == {"a": 8, "b": 24}


def test_shares_follow_the_weights() -> None:
    queue = Queue()
    queue.scheduler.set_weights({"a": 3.0})
    for job in names("a", 40) + names("b", 40):
        queue.add(job, job[0])
    assert Counter(job[0] for job in queue.run_all()[:40]) == {"a": 30, "b": 10}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Scheduler().set_weights({"a": weight})


def test_who_was_idle_has_saved_up_nothing() -> None:
    queue = Queue()
    queue.add("early", "idle")
    for job in names("busy", 20):
        queue.add(job, "busy")
    assert len(queue.run_all()) == 21
    for number in range(20):
        queue.add(f"more{number}", "busy")
        queue.add(f"back{number}", "idle")
    order = queue.run_all()
    assert Counter(job[:4] for job in order[:10]) == {"more": 5, "back": 5}


def test_who_comes_anew_starts_level_and_not_first() -> None:
    queue = Queue()
    for job in names("a", 50):
        queue.add(job, "a")
    for _ in range(30):
        assignment = queue.next()
        assert assignment is not None
        queue.scheduler.ended(assignment.job.job_id, 1.0)
    for job in names("b", 50):
        queue.add(job, "b")
    assert Counter(job[0] for job in queue.run_all()[:20]) == {"a": 10, "b": 10}


def test_a_job_that_was_nothing_costs_nothing() -> None:
    queue = Queue()
    for job in names("a", 4) + names("b", 4):
        queue.add(job, job[0])
    for _ in range(2):
        assignment = queue.next()
        assert assignment is not None
        queue.scheduler.ended(assignment.job.job_id, 0.0)
    assert Counter(job[0] for job in queue.run_all()[:4]) == {"a": 2, "b": 2}


def test_the_least_loaded_ready_device_is_first() -> None:
    queue = Queue(device(0, 4), device(1, 4), device(2, 4, ready=False))
    for job in names("a", 5):
        queue.add(job)
    assert queue.handed_out() == {"a0": 0, "a1": 1, "a2": 0, "a3": 1, "a4": 0}


def test_a_device_that_is_not_ready_gets_nothing_until_it_is() -> None:
    queue = Queue(device(ready=False))
    queue.add("a")
    assert queue.next() is None
    queue.devices = [device()]
    assert queue.handed_out() == {"a": 0}


def test_a_job_passes_over_devices_with_too_little_memory() -> None:
    queue = Queue(device(0, 8, memory=4 * GIB), device(1, 8, memory=40 * GIB))
    queue.add("large", gib=10)
    queue.add("small", gib=1)
    assert queue.handed_out() == {"large": 1, "small": 0}


def test_a_job_for_which_there_is_no_device_lets_the_others_go() -> None:
    queue = Queue(device(0, 8, memory=4 * GIB))
    queue.add("huge", gib=100)
    queue.add("small", gib=1)
    assert queue.handed_out() == {"small": 0}
    assert queue.scheduler.waits("huge")


def test_jobs_beside_each_other_fit_into_the_memory() -> None:
    queue = Queue(device(0, 8, memory=10 * GIB))
    for job in names("a", 4):
        queue.add(job, gib=4)
    assert queue.handed_out() == {"a0": 0, "a1": 0}
    queue.scheduler.ended("a0", 1.0)
    assert queue.handed_out() == {"a2": 0}


def test_a_large_job_is_not_overtaken_for_ever() -> None:
    queue = Queue(device(0, 8, memory=10 * GIB))
    queue.add("running", gib=4)
    assert queue.handed_out() == {"running": 0}
    queue.add("large", gib=10)
    queue.add("small", gib=1)
    assert queue.handed_out() == {}, "the device is kept for the large one"
    queue.scheduler.ended("running", 1.0)
    assert queue.handed_out() == {"large": 0}


def test_only_one_device_is_kept_for_a_large_job() -> None:
    queue = Queue(device(0, 8, memory=10 * GIB), device(1, 8, memory=10 * GIB))
    queue.add("first", gib=4)
    queue.add("second", gib=2)
    assert queue.handed_out() == {"first": 0, "second": 1}
    queue.add("large", gib=10)
    queue.add("small", gib=1)
    assert queue.handed_out() == {"small": 0}


def test_a_device_whose_memory_is_unknown_takes_what_comes() -> None:
    queue = Queue(device(0, 8))
    queue.add("a", gib=1000)
    queue.add("b", gib=1000)
    assert queue.handed_out() == {"a": 0, "b": 0}


def test_a_job_is_known_once_and_can_be_forgotten() -> None:
    queue = Queue(device(capacity=8))
    queue.add("a")
    queue.add("a")
    queue.add("b")
    queue.scheduler.discard("b")
    queue.scheduler.discard("never known")
    assert queue.handed_out() == {"a": 0}
    queue.add("a")
    assert queue.handed_out() == {}, "it runs"
    queue.scheduler.discard("a")
    queue.scheduler.ended("a", 1.0)
    queue.add("a", number=1)
    assert queue.handed_out() == {"a": 0}


def test_shares_are_those_of_the_clients_with_jobs() -> None:
    queue = Queue(device(capacity=1))
    queue.scheduler.set_weights({"a": 3.0, "absent": 9.0})
    queue.add("a0", "a")
    queue.add("a1", "a")
    queue.add("b0", "b")
    queue.next()
    assert queue.scheduler.shares() == {
        "a": {"weight": 3.0, "share": 0.75, "waiting": 1, "running": 1},
        "b": {"weight": 1.0, "share": 0.25, "waiting": 1, "running": 0},
    }


def test_clients_that_went_away_are_forgotten() -> None:
    scheduler = Scheduler()
    devices = [device(capacity=4)]
    for number in range(2000):
        scheduler.add(QueuedJob(f"job{number}", number, f"client{number}", 0, 0, None))
        if number % 4 == 3:
            running = [scheduler.next(devices) for _ in range(4)]
            for assignment in running:
                assert assignment is not None
                scheduler.ended(assignment.job.job_id, 0.5)
    assert len(scheduler._clients) < 20


# Properties.

JOBS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(-2, 2),
        st.integers(0, 12),
        st.floats(0.0, 5.0),
    ),
    max_size=60,
)
DEVICES = st.lists(
    st.builds(
        lambda capacity, memory, ready: (capacity, memory, ready),
        st.integers(1, 4),
        st.none() | st.integers(4, 12),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def made(devices: Iterable[tuple[int, int | None, bool]]) -> list[DeviceState]:
    return [
        device(index, capacity, None if memory is None else memory * GIB, ready)
        for index, (capacity, memory, ready) in enumerate(devices)
    ]


@given(JOBS, DEVICES, st.randoms(use_true_random=False))
def test_no_device_is_ever_given_more_than_it_takes(jobs, devices, random) -> None:
    """Nor a job handed out twice, nor a lower priority before a higher that could go."""
    states = {state.index: state for state in made(devices)}
    scheduler = Scheduler()
    waiting: dict[str, QueuedJob] = {}
    seconds = {}
    for number, (client, priority, gib, took) in enumerate(jobs):
        job = QueuedJob(f"job{number}", number, client, priority, gib * GIB, None)
        waiting[job.job_id] = job
        seconds[job.job_id] = took
        scheduler.add(job)
    running: dict[str, Assignment] = {}
    while True:
        while assignment := scheduler.next(states.values()):
            job = waiting.pop(assignment.job.job_id)
            state = states[assignment.device]
            beside = [
                other.job.memory_bytes
                for other in running.values()
                if other.device == assignment.device
            ]
            assert state.ready
            assert len(beside) < state.capacity
            if state.memory_bytes is not None:
                assert not beside or sum(beside) + job.memory_bytes <= state.memory_bytes
                assert job.memory_bytes <= state.memory_bytes
            for other in waiting.values():
                # One that asks for no memory could have gone wherever this one went.
                assert other.memory_bytes or other.priority <= job.priority
            running[job.job_id] = assignment
        if not running:
            break
        ended = random.choice(sorted(running))
        del running[ended]
        scheduler.ended(ended, seconds[ended])
    ready = [state for state in states.values() if state.ready]
    for job in waiting.values():
        assert not any(
            state.memory_bytes is None or job.memory_bytes <= state.memory_bytes for state in ready
        ), "what could run did"


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=4),
    capacity=st.integers(1, 6),
    data=st.data(),
)
def test_what_clients_with_waiting_jobs_get_differs_by_what_is_in_flight_at_most(
    weights, capacity, data
) -> None:
    longest = 4.0
    scheduler = Scheduler()
    named = {f"c{index}": weight for index, weight in enumerate(weights)}
    scheduler.set_weights(named)
    count = 60
    for number in range(count):
        for client in named:
            scheduler.add(QueuedJob(f"{client}-{number}", number * 10, client, 0, 0, None))
    devices = [device(capacity=capacity)]
    running: list[Assignment] = []
    used: defaultdict[str, float] = defaultdict(float)
    for _ in range(count):
        while assignment := scheduler.next(devices):
            running.append(assignment)
        ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
        took = data.draw(st.floats(0.1, longest))
        used[ended.job.client] += took
        scheduler.ended(ended.job.job_id, took)
        shares = [used[client] / weight for client, weight in named.items()]
        assert max(shares) - min(shares) <= (capacity + 1) * longest / min(weights)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(1, 3))
def test_within_a_priority_everybody_has_a_turn_in_time(clients, capacity) -> None:
    """However many come after: the oldest job of a client waits for a bounded number of others."""
    scheduler = Scheduler()
    devices = [device(capacity=capacity)]
    numbers = itertools.count()
    scheduler.add(QueuedJob("patient", next(numbers), "patient", 0, 0, None))
    running: list[str] = []
    for before, client in enumerate(itertools.cycle(clients)):
        # Someone new each time, besides those who always have jobs.
        for name in (client, f"new{before}"):
            number = next(numbers)
            scheduler.add(QueuedJob(f"job{number}", number, name, 0, 0, None))
        while assignment := scheduler.next(devices):
            running.append(assignment.job.job_id)
        if "patient" in running:
            return
        assert before < 20
        scheduler.ended(running.pop(0), 1.0)
