"""The client sends what it is given, and turns answers into results and exceptions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from listening import listening
from scripted import H200, STATS, ScriptedEvaluator, failed, partial

from kerneljudge.api import CompareResponse, EvaluateResponse
from kerneljudge.client import KernelJudgeClient, KernelJudgeError, RequestError, ServerError
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


@pytest.fixture
def evaluator() -> ScriptedEvaluator:
    """Its script may be replaced."""
    return ScriptedEvaluator(environment=H200, device_name="cuda:3")


@pytest.fixture
def url(evaluator: ScriptedEvaluator) -> Iterator[str]:
    """A real HTTP server around the evaluator."""
    with listening(evaluator) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[KernelJudgeClient]:
    with KernelJudgeClient(url) as opened:
        yield opened


def test_results_are_read_as_attributes_and_as_items(client: KernelJudgeClient) -> None:
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


def test_a_kernel_may_be_a_model_or_a_dict(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
) -> None:
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
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
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
    url: str, evaluator: ScriptedEvaluator
) -> None:
    with KernelJudgeClient(url, timeout=44) as client:
        client.evaluate(KERNEL)
        client.evaluate(KERNEL, timeout=55)
    assert [request.timeout for request in evaluator.requests] == [44, 55]


@pytest.mark.parametrize("kind", [FaultKind.COMPILE_ERROR, FaultKind.CRASHED])
def test_a_failing_kernel_is_a_result(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator, kind: FaultKind
) -> None:
    evaluator.script = lambda request: failed(request, kind, Phase.CHECK)
    result = client.evaluate(KERNEL)
    assert isinstance(result, EvaluateResponse)
    assert result.verdict.value == kind.value
    assert result.kernel_exec_result.runtime_stats is None


@pytest.mark.parametrize("whose", ["candidate", "reference"])
def test_a_job_that_ran_out_of_time_is_a_result_too(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator, whose: str
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


def test_a_malformed_request_raises_with_every_mistake(client: KernelJudgeClient) -> None:
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


def test_a_broken_rule_raises_with_the_rule(client: KernelJudgeClient) -> None:
    with pytest.raises(RequestError, match=r"IOContract is required for Triton.*io_contract"):
        client.evaluate({"source_code": "x", "kernel_type": "triton"})


def test_an_unknown_job_raises(client: KernelJudgeClient) -> None:
    for job_id in ("none", "../health", "a/b?c"):
        with pytest.raises(RequestError) as raised:
            client.get_job_status(job_id)
        assert raised.value.status_code == 404


def test_a_failure_of_the_judge_raises_with_what_is_known(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        return partial(request, Phase.CHECK).model_copy(update={"error": "the judge died"})

    evaluator.script = script
    with pytest.raises(ServerError, match="the judge died") as raised:
        client.evaluate(KERNEL)
    assert raised.value.status_code == 500
    assert raised.value.body["kernel_exec_result"]["compiled"] is True


def test_a_failure_of_the_server_raises_with_its_words(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
) -> None:
    def script(request: JobRequest) -> JobReport:
        raise RuntimeError("boom")

    evaluator.script = script
    with pytest.raises(ServerError, match="RuntimeError: boom"):
        client.evaluate(KERNEL)


def test_a_server_that_is_not_there_raises_with_what_to_do() -> None:
    with (
        KernelJudgeClient("http://127.0.0.1:1") as client,
        pytest.raises(ServerError, match=r"http://127.0.0.1:1: .*kerneljudge serve") as raised,
    ):
        client.health_check()
    assert raised.value.status_code is None


def replying(answer: Callable[[httpx.Request], httpx.Response]) -> KernelJudgeClient:
    return KernelJudgeClient("http://judge.test", transport=httpx.MockTransport(answer))


def test_an_answer_that_never_comes_raises_with_the_time() -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    with (
        KernelJudgeClient(
            "http://judge.test", queue_timeout=10, transport=httpx.MockTransport(silent)
        ) as client,
        pytest.raises(ServerError, match="no answer to POST /evaluate within 40 s"),
    ):
        client.evaluate(KERNEL, timeout=30)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (httpx.Response(502, text="<html>bad gateway</html>"), ServerError),
        (httpx.Response(200, text="<html>welcome</html>"), ServerError),
        (httpx.Response(200, json={"status": "success"}), ServerError),
        (httpx.Response(401, text="who are you"), RequestError),
        (httpx.Response(400, json={"error": "no", "validation_errors": [1]}), RequestError),
    ],
)
def test_what_no_server_of_ours_would_say_raises(
    response: httpx.Response, error: type[KernelJudgeError]
) -> None:
    with replying(lambda request: response) as client, pytest.raises(error) as raised:
        client.evaluate(KERNEL)
    assert raised.value.status_code == response.status_code


def test_fields_of_a_newer_server_are_kept(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
) -> None:
    body = json.loads(client.compare(KERNEL, KERNEL).model_dump_json())
    body["novelty"] = 1
    body["candidate"]["novelty"] = 2
    body["kernel_exec_result"]["runtime_stats"]["novelty"] = 3
    with replying(lambda request: httpx.Response(200, json=body)) as newer:
        result = newer.compare(KERNEL, KERNEL)
    assert result["novelty"] == 1
    assert result.kernel_exec_result.runtime_stats is not None
    assert result.kernel_exec_result.runtime_stats["novelty"] == 3


def test_health_stats_jobs_and_cleanup(client: KernelJudgeClient) -> None:
    job_id = client.evaluate(KERNEL).job_id
    assert client.health_check().gpu_count == 1
    job = client.get_job_status(job_id)
    assert job.status == "completed"
    assert job.result is not None
    assert job.result["verdict"] is Verdict.ACCEPTED
    stats = client.get_stats()
    assert stats["throughput"]["completed_requests"] == stats.jobs_completed == 1
    assert client.cleanup_jobs().status == "cleanup_completed"


def test_a_proxy_for_the_outside_world_is_not_asked_for_this_machine(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with KernelJudgeClient(url) as client:
        assert client.health_check().status == "healthy"


def test_one_client_serves_several_threads(
    client: KernelJudgeClient, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD,)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.evaluate(KERNEL).job_id))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    while len(evaluator.requests) < len(threads):
        assert client.health_check().status == "healthy"
    # Only now, when all of them wait at once, may they end.
    evaluator.step(len(threads))
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(threads)


def test_a_closed_connection_does_not_stop_the_job(
    client: KernelJudgeClient, url: str, evaluator: ScriptedEvaluator
) -> None:
    evaluator.steps = (Phase.BUILD,)
    impatient = KernelJudgeClient(url, queue_timeout=-4.9)
    with pytest.raises(ServerError, match="no answer"):
        impatient.evaluate(KERNEL, timeout=5)
    impatient.close()
    while not evaluator.running:
        client.health_check()
    evaluator.step()
    while client.health_check().job_stats.by_status != {"completed": 1}:
        pass


def test_the_defaults_are_those_of_the_older_client() -> None:
    client = KernelJudgeClient()
    assert client.base_url == "http://localhost:8000"
    assert client.timeout == 120
    client.close()
