"""Both clients send what they are given, and turn answers into results and exceptions."""

from __future__ import annotations

import http.server
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from both_clients import KINDS, blocking
from listening import listening
from scripted import H200, STATS, ScriptedEvaluator, failed, partial

from kerneljudge.api import CompareResponse, EvaluateResponse
from kerneljudge.client import (
    AsyncKernelJudgeClient,
    AuthenticationError,
    BatchProgress,
    ConflictError,
    JobCancelled,
    JobError,
    JobEventResponse,
    JobResponse,
    JobTimeout,
    KernelJudgeClient,
    KernelJudgeError,
    NotFoundError,
    RequestError,
    ServerError,
    ServerUnreachable,
)
from kerneljudge.contract import IOContractBuilder, create_randn_spec
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

pytestmark = pytest.mark.integration

KERNEL = KernelCode(source_code="def f(x): return x", kernel_type=KernelType.TORCH)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[str, ScriptedEvaluator]]:
    """A real HTTP server, and the evaluator that it is around."""
    evaluator = ScriptedEvaluator()
    with listening(evaluator) as address:
        yield address, evaluator


@pytest.fixture
def evaluator(serving: tuple[str, ScriptedEvaluator]) -> ScriptedEvaluator:
    """The server's, as new; its script may be replaced."""
    found = serving[1]
    found.__init__(environment=H200, device_name="cuda:3")  # type: ignore[misc]
    return found


@pytest.fixture
def url(serving: tuple[str, ScriptedEvaluator], evaluator: ScriptedEvaluator) -> str:
    return serving[0]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def client(url: str, kind: str) -> Iterator[Any]:
    with blocking(kind, url) as opened:
        yield opened


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        return {
            name: [str(one) for one in inspect.signature(found).parameters.values()]
            for name, found in vars(client).items()
            if not name.startswith("_")
        }

    assert surface(KernelJudgeClient) == surface(AsyncKernelJudgeClient)


def test_results_are_read_as_attributes_and_as_items(client: Any) -> None:
    result = client.compare(KERNEL, KERNEL)
    assert isinstance(result, CompareResponse)
    assert result.verdict is Verdict.ACCEPTED
    assert result["status"] == result.status == "success"
    stats = result["kernel_exec_result"]["runtime_stats"]
    assert stats["mean"] == stats.mean == 1.235
    assert result.ref_runtime["percentile_99"] == result.ref_runtime.percentile_99
    assert result.get("no such field", 3) == 3
    assert "speedup" in result
    assert "no such field" not in result
    with pytest.raises(KeyError):
        result["no such field"]
    assert result.candidate.runtime == STATS


def test_a_kernel_may_be_a_model_or_a_dict(client: Any, evaluator: ScriptedEvaluator) -> None:
    contract = (
        IOContractBuilder()
        .add_input_tensor("x", create_randn_spec([4], seed=1))
        .add_output_tensor("y", shape=[4])
        .build()
    )
    kernel = KernelCode(
        source_code="def f(x): return x",
        kernel_type=KernelType.TORCH,
        io=contract,
        metadata={"function_name": "f", "note": None},
    )
    client.evaluate(kernel)
    client.evaluate(json.loads(kernel.model_dump_json()))
    sent = [
        request.kernel for request in evaluator.requests if isinstance(request, EvaluateRequest)
    ]
    assert sent == [kernel, kernel]


def test_options_reach_the_server_and_the_rest_is_left_to_it(
    client: Any, evaluator: ScriptedEvaluator
) -> None:
    client.compare(KERNEL, KERNEL, 7, 33, num_warmup=1, num_checks=4, seed=9, atol=0.5, rtol=0.25)
    client.compare(KERNEL, KERNEL)
    client.evaluate(KERNEL, num_trials=5, num_checks=3)
    full, bare, evaluation = evaluator.requests
    assert full == CompareRequest(
        ref_kernel=KERNEL,
        custom_kernel=KERNEL,
        num_trials=7,
        timeout=33,
        num_warmup=1,
        num_checks=4,
        seed=9,
        atol=0.5,
        rtol=0.25,
    )
    assert isinstance(bare, CompareRequest)
    assert (bare.atol, bare.rtol) == (None, None)
    assert bare.timeout == 120
    assert (evaluation.num_trials, evaluation.num_checks) == (5, 3)


def test_the_timeout_of_the_client_is_the_default_of_its_jobs(
    url: str, kind: str, evaluator: ScriptedEvaluator
) -> None:
    with blocking(kind, url, timeout=44) as client:
        client.evaluate(KERNEL)
        client.evaluate(KERNEL, timeout=55)
    assert [request.timeout for request in evaluator.requests] == [44, 55]


@pytest.mark.parametrize("fault", [FaultKind.COMPILE_ERROR, FaultKind.CRASHED])
def test_a_failing_kernel_is_a_result(
    client: Any, evaluator: ScriptedEvaluator, fault: FaultKind
) -> None:
    evaluator.script = lambda request: failed(request, fault, Phase.CHECK)
    result = client.evaluate(KERNEL)
    assert isinstance(result, EvaluateResponse)
    assert result.verdict.value == fault.value
    assert result.kernel_exec_result.runtime_stats is None


@pytest.mark.parametrize("whose", ["candidate", "reference"])
def test_a_job_that_ran_out_of_time_is_a_result_too(
    client: Any, evaluator: ScriptedEvaluator, whose: str
) -> None:
    evaluator.script = lambda request: failed(
        request,
        FaultKind.TIMEOUT,
        Phase.CHECK,
        whose,  # type: ignore[arg-type]
    )
    result = client.compare(KERNEL, KERNEL)
    assert result.status == "error"
    assert result.fault is not None
    assert result.fault.kind is FaultKind.TIMEOUT
    assert "Job timeout" in result["error"]


def test_a_malformed_request_raises_with_every_mistake(client: Any) -> None:
    with pytest.raises(RequestError) as raised:
        client.evaluate({"source_code": "", "kernel_type": "opencl"}, num_trials=0)
    error = raised.value
    assert error.status_code == 400
    assert {issue.field for issue in error.validation_errors} == {
        "body -> kernel -> source_code",
        "body -> kernel -> kernel_type",
        "body -> num_trials",
    }
    for issue in error.validation_errors:
        assert f"{issue.field}: {issue.message}" in str(error)


def test_a_broken_rule_raises_with_the_rule(client: Any) -> None:
    with pytest.raises(RequestError, match=r"IOContract is required for Triton.*io_contract"):
        client.evaluate({"source_code": "x", "kernel_type": "triton"})


def test_an_unknown_job_raises(client: Any) -> None:
    for ask in (client.get_job_status, client.wait, client.stream, client.cancel):
        for job_id in ("none", "../health", "a/b?c"):
            with pytest.raises(NotFoundError) as raised:
                ask(job_id)
            assert raised.value.status_code == 404


def test_a_failure_of_the_judge_raises_with_what_is_known(
    client: Any, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        return partial(request, Phase.CHECK).model_copy(update={"error": "the judge died"})

    evaluator.script = script
    with pytest.raises(JobError, match="the judge died") as raised:
        client.evaluate(KERNEL)
    job = raised.value.job
    assert job.status == "failed"
    assert job.result is not None
    assert job.result["kernel_exec_result"]["compiled"] is True
    assert raised.value.body["job_id"] == job.job_id


# --- jobs


def test_a_submitted_job_is_waited_for_later(client: Any, evaluator: ScriptedEvaluator) -> None:
    evaluator.steps = (Phase.BUILD,)
    job = client.submit(EvaluateRequest(kernel=KERNEL, seed=5), priority=3)
    assert isinstance(job, JobResponse)
    assert job.priority == 3
    with pytest.raises(JobTimeout) as raised:
        client.wait(job.job_id, timeout=0.05)
    assert raised.value.job.job_id == job.job_id
    evaluator.step()
    result = client.wait(job.job_id)
    assert isinstance(result, EvaluateResponse)
    assert (result.job_id, result.seed) == (job.job_id, 5)


def test_one_idempotency_key_is_one_job(
    client: Any, kind: str, evaluator: ScriptedEvaluator
) -> None:
    key = f"mine-{kind}"
    request = {"ref_kernel": KERNEL, "custom_kernel": KERNEL}
    first, second = (client.submit(request, idempotency_key=key) for _ in range(2))
    assert first.job_id == second.job_id
    assert client.wait(first.job_id).job_id == first.job_id
    assert client.compare(KERNEL, KERNEL, idempotency_key=f"other-{kind}").job_id != first.job_id
    assert len(evaluator.requests) == 2
    with pytest.raises(ConflictError):
        client.submit({"kernel": KERNEL}, idempotency_key=key)


def test_events_tell_the_phases_and_the_end(client: Any, evaluator: ScriptedEvaluator) -> None:
    evaluator.steps = (Phase.BUILD, Phase.CHECK)
    job = client.submit({"kernel": KERNEL})
    evaluator.step(2)
    *events, last = client.stream(job.job_id)
    assert all(isinstance(event, JobEventResponse) for event in events)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    states = [event.status for event in events]
    assert states[0] == "queued"
    assert {"compiling", "validating"} <= set(states)
    assert isinstance(last, JobResponse)
    assert last.result is not None
    assert last.result["verdict"] is Verdict.ACCEPTED


def test_a_cancelled_job_raises_where_it_is_waited_for(
    client: Any, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD,)
    job = client.submit({"kernel": KERNEL})
    assert client.cancel(job.job_id).job_id == job.job_id
    with pytest.raises(JobCancelled, match=job.job_id):
        client.wait(job.job_id)
    done = client.submit({"kernel": KERNEL})
    evaluator.step()
    client.wait(done.job_id)
    with pytest.raises(ConflictError, match="has ended"):
        client.cancel(done.job_id)


def test_a_batch_comes_back_in_order_with_the_exceptions_of_what_failed(
    client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    requests: list[Any] = [{"kernel": KERNEL, "seed": number} for number in range(40)]
    requests[7] = {"kernel": {"source_code": "x", "kernel_type": "triton"}}
    requests[9] = CompareRequest(ref_kernel=KERNEL, custom_kernel=KERNEL, seed=9)
    told: list[BatchProgress] = []
    outcomes = client.batch(requests, progress=told.append)
    assert isinstance(outcomes.pop(7), RequestError)
    assert [outcome.seed for outcome in outcomes] == [*range(7), *range(8, 40)]
    assert isinstance(outcomes[8], CompareResponse)
    assert told[-1].ended == told[-1].total == 40
    assert sorted(one.index for one in told if one.index is not None) == list(range(40))
    assert capfd.readouterr().err == ""
    client.batch(requests[:3], progress=True)
    assert "accepted 3" in capfd.readouterr().err


def test_jobs_are_listed_newest_first_by_state_kind_and_client(url: str, kind: str) -> None:
    with blocking(kind, url, client=f"mine-{kind}") as client:
        made = [client.evaluate(KERNEL).job_id for _ in range(3)]
        compared = client.compare(KERNEL, KERNEL).job_id
    with blocking(kind, url) as other:
        foreign = other.evaluate(KERNEL).job_id
        listed = [job.job_id for job in other.jobs()]
        assert listed[:5] == [foreign, compared, *reversed(made)]
        assert listed == [job.job_id for job in other.jobs(len(listed))]
        mine = other.jobs(2, client=f"mine-{kind}")
        assert [job.job_id for job in mine] == [compared, made[2]]
        assert len(other.jobs(client=f"mine-{kind}", kind="evaluate", verdict="accepted")) == 3
        assert other.jobs(client=f"mine-{kind}", status=["queued", "failed"]) == []
        with pytest.raises(RequestError):
            other.jobs(status="no such state")


def test_health_stats_jobs_and_cleanup(client: Any) -> None:
    before = client.get_stats().jobs_completed
    job_id = client.evaluate(KERNEL).job_id
    assert client.health_check().gpu_count == 1
    job = client.get_job_status(job_id)
    assert job.status == "completed"
    assert job.result is not None
    assert job.result["verdict"] is Verdict.ACCEPTED
    stats = client.get_stats()
    assert stats["throughput"]["completed_requests"] == stats.jobs_completed == before + 1
    assert client.cleanup_jobs().status == "cleanup_completed"


# --- the way there and back


def test_a_server_that_is_not_there_raises_with_what_to_do(kind: str) -> None:
    with (
        blocking(kind, "http://127.0.0.1:1") as client,
        pytest.raises(
            ServerUnreachable, match=r"http://127.0.0.1:1: .*kerneljudge serve"
        ) as raised,
    ):
        client.evaluate(KERNEL)
    assert raised.value.status_code is None


@pytest.mark.parametrize(
    ("status_code", "content", "error"),
    [
        (500, b"<html>bad gateway</html>", ServerError),
        (200, b"<html>welcome</html>", ServerError),
        (202, b'{"status": "success"}', ServerError),
        (302, b"", ServerError),
        (401, b"who are you", AuthenticationError),
        (403, b"not you", AuthenticationError),
        (418, b"a teapot", RequestError),
        (400, b'{"error": "no", "validation_errors": [1]}', RequestError),
    ],
)
def test_what_no_server_of_ours_would_say_raises(
    kind: str, status_code: int, content: bytes, error: type[KernelJudgeError]
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status_code, content=content)

    with (
        blocking(kind, "http://judge.test", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(error) as raised,
    ):
        client.evaluate(KERNEL)
    assert raised.value.status_code == status_code


def test_fields_of_a_newer_server_are_kept(client: Any, kind: str) -> None:
    job_id = client.compare(KERNEL, KERNEL).job_id
    body = json.loads(client.get_job_status(job_id).model_dump_json())
    body["novelty"] = 1
    body["result"]["candidate"]["novelty"] = 2
    body["result"]["kernel_exec_result"]["runtime_stats"]["novelty"] = 3
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=body))
    with blocking(kind, "http://judge.test", transport=transport) as newer:
        job = newer.get_job_status(job_id)
    assert job["novelty"] == 1
    assert job.result.candidate.model_extra == {"novelty": 2}
    assert job.result.kernel_exec_result.runtime_stats["novelty"] == 3


def test_who_asks_is_told_and_the_environment_says_where(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404, json={"error": "no"})

    def ask(*arguments: Any, **options: Any) -> httpx.Request:
        transport = httpx.MockTransport(answer)
        with (
            blocking(kind, *arguments, transport=transport, **options) as client,
            pytest.raises(NotFoundError),
        ):
            client.get_job_status("x")
        return seen[-1]

    monkeypatch.delenv("KERNELJUDGE_URL", raising=False)
    monkeypatch.delenv("KERNELJUDGE_API_KEY", raising=False)
    bare = ask()
    assert str(bare.url) == "http://localhost:8000/job/x"
    assert "authorization" not in bare.headers
    monkeypatch.setenv("KERNELJUDGE_URL", "http://judge.test/below/")
    monkeypatch.setenv("KERNELJUDGE_API_KEY", "kj_environment\n")
    told = ask()
    assert str(told.url) == "http://judge.test/below/job/x"
    assert told.headers["authorization"] == "Bearer kj_environment"
    explicit = ask("http://other.test", api_key="kj_mine", client="team")
    assert explicit.url.host == "other.test"
    assert explicit.headers["authorization"] == "Bearer kj_mine"
    assert explicit.headers["x-kerneljudge-client"] == "team"


@pytest.mark.parametrize("key", ["kj_secret\nkj_other", "kj_secret\x1b", "kj_secrét"])
def test_a_key_that_cannot_be_sent_is_told_without_it(kind: str, key: str) -> None:
    with (
        pytest.raises(AuthenticationError, match="one line") as raised,
        blocking(kind, "http://127.0.0.1:1", api_key=key),
    ):
        pass
    assert "secr" not in str(raised.value)


def test_a_proxy_for_the_outside_world_is_not_asked_for_this_machine(
    url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with blocking(kind, url) as client:
        assert client.health_check().status == "healthy"


def test_one_client_serves_several_threads(url: str, evaluator: ScriptedEvaluator) -> None:
    evaluator.steps = (Phase.BUILD,)
    found: list[str] = []
    with KernelJudgeClient(url, client="threads") as client:
        threads = [
            threading.Thread(target=lambda: found.append(client.evaluate(KERNEL).job_id))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        while len(list(client.jobs(client="threads"))) < len(threads):
            assert client.health_check().status == "healthy"
        # Only now, when all of them wait at once, may they end.
        evaluator.step(len(threads))
        for thread in threads:
            thread.join()
    assert len(set(found)) == len(threads)


def test_an_impatient_client_is_told_and_the_job_goes_on(
    url: str, kind: str, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD,)
    with blocking(kind, url, queue_timeout=-4.9) as impatient:
        with pytest.raises(JobTimeout, match="goes on") as raised:
            impatient.evaluate(KERNEL, timeout=5)
        evaluator.step()
        result = impatient.wait(raised.value.job.job_id)
    assert result.verdict is Verdict.ACCEPTED


# --- connections that break


Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def breaking() -> Iterator[Callable[..., tuple[str, list[tuple[str, dict[str, str]]]]]]:
    """Serves each request with the next of some functions: the URL, and what was asked."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(*handlers: Handler) -> tuple[str, list[tuple[str, dict[str, str]]]]:
        asked: list[tuple[str, dict[str, str]]] = []
        coming = iter(handlers)

        class Server(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                asked.append((f"{self.command} {self.path}", dict(self.headers)))
                next(coming)(self)
                self.close_connection = True

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def drop(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Closes the connection without an answer."""


def replying(body: bytes, status: int = 200, whole: bool = True) -> Handler:
    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(body) + (not whole)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def test_what_a_broken_connection_lost_is_sent_again_under_the_same_key(
    client: Any, kind: str, breaking: Any
) -> None:
    done = client.get_job_status(client.evaluate(KERNEL).job_id).model_dump_json().encode()
    address, asked = breaking(
        drop,
        replying(done, 202, whole=False),
        replying(done.replace(b'"completed"', b'"queued"'), 202),
        drop,
        replying(done),
    )
    with blocking(kind, address) as unlucky:
        assert unlucky.evaluate(KERNEL).verdict is Verdict.ACCEPTED
    posts = [headers for line, headers in asked if line.startswith("POST")]
    assert len(posts) == 3
    assert len({headers["Idempotency-Key"] for headers in posts}) == 1
    assert len(asked) == 5


def test_a_broken_stream_is_resumed_after_its_last_event(
    client: Any, kind: str, breaking: Any
) -> None:
    done = client.get_job_status(client.evaluate(KERNEL).job_id).model_dump_json().encode()
    state = b'id: 4\nevent: state\ndata: {"number": 4, "at": 1.5, "status": "compiling"}\n\n'
    address, asked = breaking(
        replying(state, whole=False),
        drop,
        replying(b"event: end\ndata: " + done + b"\n\n"),
    )
    with blocking(kind, address) as unlucky:
        first, last = unlucky.stream("j")
    assert (first.number, first.status) == (4, "compiling")
    assert last.status == "completed"
    assert [headers.get("Last-Event-ID") for _, headers in asked] == [None, "4", "4"]


def test_a_stream_may_be_left_early(url: str, evaluator: ScriptedEvaluator) -> None:
    evaluator.steps = (Phase.BUILD,)
    with KernelJudgeClient(url) as client:
        job_id = client.submit({"kernel": KERNEL}).job_id
        for event in client.stream(job_id):
            assert event.status == "queued"
            break
        evaluator.step()
        assert client.wait(job_id).verdict is Verdict.ACCEPTED


def test_the_defaults_are_those_of_the_older_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELJUDGE_URL", raising=False)
    client = KernelJudgeClient()
    assert client.base_url == "http://localhost:8000"
    assert client.timeout == 120
    client.close()
