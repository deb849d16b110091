"""What the clients do, step by step, without a network and without a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest

from kerneljudge.client import (
    AuthenticationError,
    BatchProgress,
    JobCancelled,
    JobError,
    JobTimeout,
    NotFoundError,
    RateLimited,
    RequestError,
    ServerError,
    ServerUnreachable,
)
from kerneljudge.client.batches import run_batch
from kerneljudge.client.operations import Operations
from kerneljudge.client.retries import Retries
from kerneljudge.client.steps import Emit, Open, Read, Send, Sleep

pytestmark = pytest.mark.unit

Answer = httpx.Response | httpx.RequestError
KERNEL = {"source_code": "def f(x): return x", "kernel_type": "torch"}
REQUEST = {"kernel": KERNEL}
LOST = httpx.ReadError("connection reset")
REFUSED = httpx.ConnectError("connection refused")

STATS = dict.fromkeys(
    ("mean", "std", "min", "max", "median", "percentile_95", "percentile_99"), 1.0
)


def result(verdict: str = "accepted") -> dict[str, Any]:
    """The body of an /evaluate."""
    return {
        "job_id": "j",
        "kernel_exec_result": {"compiled": True, "correctness": True, "metadata": {}},
        "pod_name": "p",
        "pod_ip": "i",
        "status": "success",
        "verdict": verdict,
        "phase": "done",
        "seed": 1,
        "candidate": {"compiled": True},
    }


def job(job_id: str = "j", status: str = "completed", **fields: Any) -> dict[str, Any]:
    """The body of a GET /job/{job_id}."""
    body = {"job_id": job_id, "status": status, "created_at": 1.0, "kind": "evaluate", **fields}
    if status == "completed":
        body.setdefault("result", result())
    return body


def answer(body: Any, status_code: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(
        status_code,
        json=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        request=httpx.Request("GET", "http://judge.test/"),
    )


class World:
    """A network that answers from a script, and a clock that only waiting moves."""

    def __init__(self, *answers: Answer, poll_takes: bool = True) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.now = 1000.0
        self.sent: list[Send] = []
        self.slept: list[float] = []
        # A server that waits for as long as it is asked to.
        self.poll_takes = poll_takes
        self.operations = Operations(
            "http://judge.test",
            timeout=120,
            queue_timeout=600,
            retries=Retries(attempts=3, first=1, longest=8, draw=lambda: 1.0),
            clock=lambda: self.now,
        )

    def reply(self, step: Send) -> Answer:
        return next(self.answers)

    def run(self, operation: Any) -> Any:
        """What the operation returns."""
        told: Any = None
        while True:
            try:
                step = operation.send(told)
            except StopIteration as end:
                return end.value
            told = self.perform(step)

    def perform(self, step: Any) -> Any:
        if isinstance(step, Sleep):
            self.slept.append(step.seconds)
            self.now += step.seconds
            return None
        assert isinstance(step, Send)
        self.sent.append(step)
        told = self.reply(step)
        if self.poll_takes and isinstance(told, httpx.Response) and told.status_code == 200:
            unfinished = b'"completed"' not in told.content
            self.now += float(str(step.call.params.get("wait", 0))) * unfinished
        return told

    @property
    def asked(self) -> list[str]:
        return [str(step.call) for step in self.sent]


def evaluate(world: World, **options: Any) -> Any:
    return world.run(world.operations.evaluate(KERNEL, 100, None, **options))


def test_every_attempt_of_a_submission_has_the_same_idempotency_key() -> None:
    world = World(LOST, answer({}, 503), answer(job(status="queued"), 202), LOST, answer(job()))
    world.operations._reached = True  # it has answered before
    assert evaluate(world).verdict == "accepted"
    posts = [step.call for step in world.sent if step.call.method == "POST"]
    assert len(posts) == 3
    assert len({call.headers["Idempotency-Key"] for call in posts}) == 1
    assert all(call.params["wait"] == "false" for call in posts)
    assert world.asked[3:] == ["GET /job/j", "GET /job/j"]
    other = World(answer(job(), 202))
    evaluate(other)
    assert other.sent[0].call.headers["Idempotency-Key"] != posts[0].headers["Idempotency-Key"]


def test_an_own_idempotency_key_priority_and_deadline_are_sent() -> None:
    world = World(answer(job(), 202))
    evaluate(world, idempotency_key="mine", priority=-3, deadline=0.1, seed=4)
    (step,) = world.sent
    assert step.call.headers["Idempotency-Key"] == "mine"
    assert step.call.params == {"wait": "false", "priority": "-3", "deadline": "0.1"}
    assert step.call.content is not None
    body = json.loads(step.call.content)
    assert (body["seed"], body["timeout"], "num_checks" in body) == (4, 120, False)


def test_an_unknown_option_is_told() -> None:
    with pytest.raises(TypeError, match="num_trails"):
        evaluate(World(), num_trails=3)


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    world = World(REFUSED)
    with pytest.raises(ServerUnreachable, match="is it running"):
        evaluate(world)
    assert world.slept == []


def test_a_server_that_went_away_is_waited_for() -> None:
    world = World(answer(job(status="queued"), 202), REFUSED, REFUSED, answer(job()))
    assert evaluate(world).verdict == "accepted"
    assert world.slept == [1, 2]


def test_failures_are_counted_anew_after_each_answer() -> None:
    running = answer(job(status="compiling"))
    accepted = answer(job(status="queued"), 202)
    world = World(accepted, LOST, LOST, LOST, running, LOST, LOST, LOST, answer(job()))
    assert evaluate(world).verdict == "accepted"


def test_in_the_end_what_does_not_pass_is_told() -> None:
    for failure, error in (
        (LOST, ServerUnreachable),
        (answer({"error": "it is stopping"}, 503), ServerError),
        (answer({"error": "the queue is full"}, 429, retry_after="7"), RateLimited),
    ):
        world = World(*[failure] * 4)
        world.operations._reached = True
        with pytest.raises(error) as raised:
            evaluate(world)
        assert len(world.sent) == 4
    assert isinstance(raised.value, RateLimited)
    assert raised.value.retry_after == 7
    assert "the queue is full" in str(raised.value)


def test_nothing_is_waited_for_beyond_the_time_of_the_whole() -> None:
    # 120 seconds for the job and 600 to wait for its device.
    world = World(answer({"error": "full"}, 429, retry_after="721"))
    with pytest.raises(RateLimited):
        evaluate(world)
    assert world.slept == []


def test_a_job_is_waited_for_in_long_polls_until_it_ends() -> None:
    running = answer(job(status="profiling"))
    world = World(answer(job(status="queued"), 202), *[running] * 5, answer(job()))
    assert evaluate(world).verdict == "accepted"
    assert [step.call.params for step in world.sent[1:]] == [{"wait": "20"}] * 6
    assert all(step.seconds > 20 for step in world.sent[1:])
    assert world.slept == []


def test_a_server_that_does_not_wait_is_not_hurried() -> None:
    running = answer(job(status="profiling"))
    world = World(*[running] * 3, answer(job()), poll_takes=False)
    world.run(world.operations.wait("j"))
    assert world.slept == [1, 1, 1]


def test_a_job_that_does_not_end_in_time_is_told_as_it_stands() -> None:
    world = World(*[answer(job(status="profiling"))] * 3)
    with pytest.raises(JobTimeout, match="it is profiling, and goes on") as raised:
        world.run(world.operations.wait("j", timeout=45))
    assert [step.call.params["wait"] for step in world.sent] == ["20", "20", "5"]
    assert raised.value.job.status == "profiling"
    assert isinstance(raised.value, TimeoutError)


def test_a_wait_of_no_time_asks_once() -> None:
    world = World(answer(job(status="queued")))
    with pytest.raises(JobTimeout):
        world.run(world.operations.wait("j", timeout=0))
    assert len(world.sent) == 1


@pytest.mark.parametrize(
    ("ended", "error", "told"),
    [
        (job(status="cancelled", error="by a request"), JobCancelled, "by a request"),
        (job(status="failed", error="its deadline passed"), JobError, "its deadline passed"),
        (job(status="failed", result=result("internal_error"), error="x"), JobError, "x"),
        (job(status="completed", result=None), JobError, "it has no result"),
    ],
)
def test_a_job_without_a_verdict_raises_with_the_job(
    ended: dict[str, Any], error: type[JobError], told: str
) -> None:
    world = World(answer(ended))
    with pytest.raises(error, match=told) as raised:
        world.run(world.operations.wait("j"))
    assert raised.value.job.status == ended["status"]
    assert raised.value.body["job_id"] == "j"


def test_a_timed_out_job_has_a_verdict() -> None:
    world = World(answer(job(status="failed", result=result("timeout"), error="Job timeout")))
    assert world.run(world.operations.wait("j")).verdict == "timeout"


@pytest.mark.parametrize("status_code", [200, 400, 500])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 5000, b"\xff", b""])
def test_an_answer_that_nobody_can_read_raises_as_any_other(
    status_code: int, content: bytes
) -> None:
    request = httpx.Request("GET", "http://judge.test/")
    world = World(httpx.Response(status_code, content=content, request=request))
    with pytest.raises(RequestError if status_code == 400 else ServerError) as raised:
        world.run(world.operations.stats())
    assert raised.value.status_code == status_code


def test_a_result_of_the_other_kind_is_no_answer() -> None:
    world = World(answer(job(), 202))
    with pytest.raises(ServerError, match="CompareResponse"):
        world.run(world.operations.compare(KERNEL, KERNEL, 100, None))


@pytest.mark.parametrize("operation", ["health", "cleanup"])
def test_what_has_no_key_is_sent_once(operation: str) -> None:
    for failure in (LOST, answer({"error": "draining"}, 503)):
        world = World(failure)
        with pytest.raises(ServerError):
            world.run(getattr(world.operations, operation)())
        assert len(world.sent) == 1


@pytest.mark.parametrize("job_id", ["../health", ".", "a/b?c#d", "", "é"])
def test_a_job_s_id_stays_in_its_place_of_the_path(job_id: str) -> None:
    world = World(answer({"error": "no"}, 404))
    with pytest.raises(NotFoundError):
        world.run(world.operations.job(job_id))
    url = httpx.Request("GET", httpx.URL("http://judge.test").join(world.sent[0].call.path)).url
    assert url.raw_path.startswith(b"/job/")
    assert url.raw_path.count(b"/") == 2
    assert not url.query


def test_jobs_are_listed_page_by_page() -> None:
    pages = [
        answer({"jobs": [job("a"), job("b")], "next_cursor": "c1"}),
        answer({"jobs": [job("c")], "next_cursor": None}),
    ]
    world = World(*pages)
    listed = collect(world, world.operations.jobs(None, {"status": ["queued", "failed"]}))
    assert [entry.job_id for entry in listed] == ["a", "b", "c"]
    first, second = (step.call.params for step in world.sent)
    assert first == {"status": ["queued", "failed"], "limit": "100"}
    assert second["cursor"] == "c1"
    bounded = World(answer({"jobs": [job("a"), job("b")], "next_cursor": "c1"}))
    assert len(collect(bounded, bounded.operations.jobs(2, {"client": "me"}))) == 2
    assert bounded.sent[0].call.params == {"client": "me", "limit": "2"}


# --- events


def state(number: int, status: str) -> bytes:
    data = json.dumps({"number": number, "at": 1.0, "status": status})
    return f"event: state\nid: {number}\ndata: {data}\n\n".encode()


def end(**fields: Any) -> bytes:
    return f"event: end\ndata: {json.dumps(job(**fields))}\n\n".encode()


def collect(
    world: World, series: Any, connections: Iterable[Answer | list[bytes | Answer]] = ()
) -> list[Any]:
    """What a series emits. Each connection is what it brings, or what comes in place of one."""
    opened: list[Open] = []
    coming = iter(connections)
    body: Iterator[bytes | Answer] = iter(())
    found, told = [], None
    while True:
        try:
            step = series.send(told)
        except StopIteration:
            world.opened = opened  # type: ignore[attr-defined]
            return found
        told = None
        if isinstance(step, Emit):
            found.append(step.value)
        elif isinstance(step, Open):
            opened.append(step)
            connection = next(coming)
            told = answer({}) if isinstance(connection, list) else connection
            body = iter(connection if isinstance(connection, list) else ())
        elif isinstance(step, Read):
            told = next(body, b"")
        else:
            told = world.perform(step)


def stream(world: World, *connections: Answer | list[bytes | Answer]) -> list[Any]:
    return collect(world, world.operations.stream("j"), connections)


def test_events_come_as_they_happen_and_the_job_last() -> None:
    world = World()
    found = stream(world, [state(1, "queued"), b": alive\n\n", state(2, "compiling") + end()])
    assert [entry.status for entry in found] == ["queued", "compiling", "completed"]
    assert found[-1].result.verdict == "accepted"


def test_a_stream_that_breaks_is_resumed_after_the_last_event() -> None:
    world = World()
    found = stream(
        world,
        [state(1, "queued"), state(2, "submitted"), LOST],
        REFUSED,
        answer({"error": "draining"}, 503),
        [state(3, "compiling")],
        [end()],
    )
    assert [entry.status for entry in found] == ["queued", "submitted", "compiling", "completed"]
    resumed = [step.call.headers.get("Last-Event-ID") for step in world.opened]  # type: ignore[attr-defined]
    assert resumed == [None, "2", "2", "2", "3"]
    assert world.slept == [1, 2, 4, 1]


@pytest.mark.parametrize("other", ["é", "a\tb", "\x7f", "-1", "²"])
def test_an_id_that_is_none_of_ours_is_not_sent_back(other: str) -> None:
    world = World()
    foreign = f"id: {other}\ndata: x\n\n".encode()
    stream(world, [state(1, "queued"), foreign, LOST], [end()])
    resumed = [step.call.headers.get("Last-Event-ID") for step in world.opened]  # type: ignore[attr-defined]
    assert resumed == [None, "1"]


def test_a_stream_that_stays_away_is_told() -> None:
    with pytest.raises(ServerUnreachable):
        stream(World(), [state(1, "queued")], *[REFUSED] * 4)
    with pytest.raises(NotFoundError):
        stream(World(), answer({"error": "no such job"}, 404))
    with pytest.raises(ServerError, match="JobEventResponse"):
        stream(World(), [b"event: state\ndata: {}\n\n"])


def test_events_of_a_newer_server_are_passed_over() -> None:
    found = stream(World(), [b"event: novelty\ndata: 1\n\n", end()])
    assert [entry.status for entry in found] == ["completed"]


# --- batches


class Queue(World):
    """A server with room for some jobs, which end in order, one a long poll."""

    def __init__(
        self,
        room: int = 10**6,
        refuses: Callable[[dict[str, Any]], bool] = lambda request: False,
    ) -> None:
        super().__init__()
        self.room = room
        self.refuses = refuses
        self.jobs: list[str] = []
        self.ended: set[str] = set()
        self.posts: list[int] = []
        self.most = 0

    def reply(self, step: Send) -> Answer:
        call = step.call
        if call.method == "GET":
            job_id = call.path.rpartition("/")[2]
            if call.params:
                self.ended.add(job_id)
            done = job_id in self.ended
            return answer(job(job_id, "completed" if done else "queued"))
        assert call.content is not None
        body = json.loads(call.content)
        requests = body.get("requests", [body])
        assert (call.path == "/batch") == ("requests" in body)
        self.posts.append(len(requests))
        if any(map(self.refuses, requests)):
            return answer({"error": "what is this", "details": "at body"}, 400)
        if len(self.jobs) - len(self.ended) + len(requests) > self.room:
            return answer({"error": "full"}, 429, retry_after="1")
        made = [f"job-{request['seed']}" for request in requests]
        self.jobs += made
        self.most = max(self.most, len(self.jobs) - len(self.ended))
        told = [job(job_id, "queued") for job_id in made]
        return answer({"jobs": told} if "requests" in body else told[0], 202)

    def batch(self, count: int, **options: Any) -> list[Any]:
        requests = [{**REQUEST, "seed": number} for number in range(count)]
        found: list[Any] = self.run(run_batch(self.operations, requests, **options))
        return found


def kinds(outcomes: list[Any]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def test_a_batch_is_submitted_in_chunks_and_comes_back_in_order() -> None:
    world = Queue()
    told: list[BatchProgress] = []
    outcomes = world.batch(70, report=told.append)
    assert world.posts == [32, 32, 6]
    assert world.jobs == [f"job-{number}" for number in range(70)]
    assert kinds(outcomes) == ["EvaluateResponse"] * 70
    ends = [progress for progress in told if progress.outcome is not None]
    assert [progress.index for progress in ends] == list(range(70))
    assert [progress.ended for progress in ends] == list(range(1, 71))
    assert all(progress.total == 70 for progress in told)
    assert dict(told[-1].running) == {}


def test_no_more_than_asked_for_run_at_once() -> None:
    world = Queue()
    assert len(world.batch(9, parallel=2)) == 9
    assert world.most == 2
    with pytest.raises(ValueError, match="parallel"):
        world.batch(1, parallel=0)


def test_a_bad_request_fails_alone_and_each_other_is_submitted_once() -> None:
    world = Queue(refuses=lambda request: request["seed"] in (5, 38))
    outcomes = world.batch(40)
    failed = [number for number, one in enumerate(outcomes) if isinstance(one, RequestError)]
    assert failed == [5, 38]
    assert sorted(world.jobs) == sorted(
        f"job-{number}" for number in range(40) if number not in failed
    )


def test_a_batch_larger_than_the_queue_waits_for_its_own_jobs() -> None:
    world = Queue(room=3)
    assert kinds(world.batch(20)) == ["EvaluateResponse"] * 20
    assert world.most == 3
    assert world.slept == []


def test_a_queue_that_others_fill_is_waited_for_and_then_told() -> None:
    world = Queue(room=0)
    assert kinds(world.batch(2)) == ["RateLimited"] * 2
    assert len(world.slept) == 6


def test_what_is_wrong_with_all_of_them_is_told_for_all() -> None:
    world = World(answer({"error": "who are you"}, 401))
    outcomes = world.run(run_batch(world.operations, [REQUEST] * 40))
    assert all(isinstance(outcome, AuthenticationError) for outcome in outcomes)
    assert len(world.sent) == 1
    gone = World(answer({"jobs": [job(), job()]}, 202), answer(job()), *[LOST] * 4)
    outcomes = gone.run(run_batch(gone.operations, [REQUEST] * 2))
    assert kinds(outcomes) == ["EvaluateResponse", "ServerUnreachable"]


def test_a_job_without_a_verdict_is_its_exception() -> None:
    answers = [answer(job("a", "cancelled")), answer(job("b"))]
    world = World(answer({"jobs": [job("a"), job("b")]}, 202), *answers)
    assert kinds(world.run(run_batch(world.operations, [REQUEST] * 2))) == [
        "JobCancelled",
        "EvaluateResponse",
    ]


def test_later_jobs_that_end_first_are_taken_while_the_first_runs() -> None:
    world = Queue()
    reply = world.reply

    def slow_head(step: Send) -> Answer:
        # The first job ends when the others have.
        if step.call.path == "/job/job-0" and len(world.ended) < 4:
            return answer(job("job-0", "profiling"))
        if step.call.method == "GET":
            world.ended.add(step.call.path.rpartition("/")[2])
        return reply(step)

    world.reply = slow_head  # type: ignore[method-assign]
    told: list[BatchProgress] = []
    world.batch(5, report=told.append)
    order = [progress.index for progress in told if progress.outcome is not None]
    assert order == [1, 2, 3, 4, 0]


def test_an_empty_batch_asks_nothing_and_no_request_is_a_type_error() -> None:
    assert World().run(run_batch(World().operations, [])) == []
    with pytest.raises(TypeError, match="EvaluateRequest"):
        World().run(run_batch(World().operations, ["a kernel"]))  # type: ignore[list-item]
