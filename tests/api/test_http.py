"""The HTTP interface: bodies in, status codes, headers and bodies out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from applications import application, client_of
from scripted import CPU, H200, ScriptedEvaluator, accepted, failed, partial, side

from kerneljudge.api import CompareResponse, EvaluateResponse, HealthResponse, JobResponse
from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import (
    CheckReport,
    CompareRequest,
    ElementReport,
    EvaluateRequest,
    FaultKind,
    JobReport,
    JobRequest,
    KernelType,
    OutputReport,
    Phase,
    RuntimeStats,
    Side,
    Verdict,
)
from kerneljudge.service import DatabaseUnusable, DeviceState, SqlStore

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL: dict[str, Any] = {"source_code": "def f(x): return x", "kernel_type": "torch"}
EVALUATE: dict[str, Any] = {"kernel": KERNEL}
COMPARE: dict[str, Any] = {"ref_kernel": KERNEL, "custom_kernel": KERNEL}

NO_CACHE = {
    "cache-control": "no-cache, no-store, must-revalidate",
    "pragma": "no-cache",
    "expires": "0",
}


@asynccontextmanager
async def serving(
    evaluator: ScriptedEvaluator | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application around an evaluator that answers as it is told."""
    settings = {"gpu_type": None, "pod_name": "pod", "pod_ip": "10.0.0.1", **settings}
    async with (
        application(evaluator or ScriptedEvaluator(), **settings) as (app, _),
        client_of(app) as client,
    ):
        yield client


async def post(
    path: str, body: Any, script: Callable[[JobRequest], JobReport] = accepted, **settings: Any
) -> httpx.Response:
    """One request to a server whose evaluator answers by the script."""
    async with serving(ScriptedEvaluator(script), **settings) as client:
        return await client.post(path, json=body)


async def test_an_accepted_evaluation_has_every_field_of_the_manual() -> None:
    response = await post("/evaluate", EVALUATE)
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "success"
    assert "error" not in body
    assert (body["pod_name"], body["pod_ip"]) == ("pod", "10.0.0.1")
    result = body["kernel_exec_result"]
    assert result["compiled"] is True
    assert result["correctness"] is True
    assert result["compilation_error"] is None
    assert result["validation_error"] is None
    assert result["runtime"] == 1.235
    assert result["runtime_stats"] == {
        "mean": 1.235,
        "std": 0.012,
        "min": 1.2,
        "max": 1.3,
        "median": 1.23,
        "percentile_95": 1.28,
        "percentile_99": 1.299,
    }
    assert result["metadata"] == {"gpu_id": 0, "kernel_name": "add", "kernel_type": "torch"}
    assert "ref_runtime" not in body
    assert "gpu_type" not in body


async def test_the_added_fields_keep_full_precision() -> None:
    body = (await post("/compare", COMPARE)).json()
    assert body["verdict"] == "accepted"
    assert body["speedup"] == 2.0
    assert body["phase"] == "done"
    assert body["phase_seconds"]["profile"] == 0.5
    assert body["candidate"]["runtime"]["mean"] == 1.23456
    assert body["reference"]["clock"]["name"] == "cuda_graph"
    assert body["ref_runtime"]["mean"] == 2.469
    assert body["tolerances"] == {"atol": 0.01, "rtol": 0.01, "exact_integers": True}
    assert [check["seed"] for check in body["checks"]] == [40, 41]
    assert body["checks"][0]["outputs"][0]["max_abs_error"] == 0
    assert body["seed"] == 7
    assert body["inputs_from"] == {"x": "contract"}
    assert body["transport"] == "shared_memory"
    assert body["environment"]["torch"] == "2.13.0"
    assert CompareResponse.model_validate(body).verdict is Verdict.ACCEPTED


async def test_the_metadata_of_the_user_comes_back() -> None:
    mine = {"algorithm": "gemm", "nested": {"a": [1, None]}, "gpu_id": 99, "gpu_type": "b200"}
    body = (await post("/evaluate", {"kernel": {**KERNEL, "metadata": mine}})).json()
    metadata = body["kernel_exec_result"]["metadata"]
    assert metadata["algorithm"] == "gemm"
    assert metadata["nested"] == {"a": [1, None]}
    assert metadata["gpu_id"] == 0, "a submitted key must not pass for a fact"
    assert "gpu_type" not in metadata, "a submitted key must not pass for a fact"
    assert body["kernel_metadata"] == {"candidate": mine}


async def test_both_kernels_metadata_come_back_from_a_comparison() -> None:
    body = {
        "ref_kernel": {**KERNEL, "metadata": {"who": "reference"}},
        "custom_kernel": {**KERNEL, "metadata": {"who": "candidate", "device_metrics": "fake"}},
    }
    answer = (await post("/compare", body)).json()
    assert answer["kernel_metadata"]["reference"] == {"who": "reference"}
    assert answer["kernel_exec_result"]["metadata"]["who"] == "candidate"
    assert "device_metrics" not in answer["kernel_exec_result"]["metadata"]


@pytest.mark.parametrize("phase", [Phase.READ, Phase.BUILD, Phase.LOAD])
async def test_a_kernel_that_does_not_compile_is_no_server_error(phase: Phase) -> None:
    kind = FaultKind.REFUSED if phase is Phase.READ else FaultKind.COMPILE_ERROR
    response = await post("/evaluate", EVALUATE, lambda request: failed(request, kind, phase))
    assert response.status_code == 200
    body = response.json()
    result = body["kernel_exec_result"]
    assert body["status"] == "success"
    assert body["verdict"] == kind.value
    assert result["compiled"] is False
    assert result["correctness"] is False
    assert "the candidate did not survive" in result["compilation_error"]
    assert "Hint: write it otherwise" in result["compilation_error"]
    assert "Traceback: line 1" in result["compilation_error"]
    assert result["validation_error"] is None
    assert result["runtime"] == 0
    assert result["runtime_stats"] is None
    assert body["fault"]["phase"] == phase.value


@pytest.mark.parametrize("phase", [Phase.CHECK, Phase.PROFILE])
async def test_a_kernel_that_crashes_was_compiled_and_is_not_correct(phase: Phase) -> None:
    body = (
        await post("/compare", COMPARE, lambda request: failed(request, FaultKind.CRASHED, phase))
    ).json()
    result = body["kernel_exec_result"]
    assert result["compiled"] is True
    assert result["compilation_error"] is None
    assert result["correctness"] is False, "no time was measured: it must not look fast and right"
    assert result["validation_error"].startswith(f"crashed in phase {phase.value}:")
    assert body["ref_runtime"]["mean"] == 0
    assert body["speedup"] is None


def wrong_answer(request: JobRequest) -> JobReport:
    output = OutputReport(
        name="output[0]",
        shape=[4],
        dtype="float32",
        matches=False,
        reason="shape [4] expected, [5] returned",
        max_abs_error=0.5,
        mean_abs_error=0.25,
        first_mismatch=ElementReport(index=[3], expected=1.0, actual="NaN"),
    )
    checks = [
        CheckReport(trial=0, seed=1, passed=True),
        CheckReport(trial=1, seed=2, passed=False, outputs=[output]),
    ]
    changes = {"verdict": Verdict.WRONG_ANSWER, "phase": Phase.CHECK, "checks": checks}
    return accepted(request).model_copy(
        update={**changes, "candidate": side(runtime=None), "speedup": None}
    )


async def test_a_wrong_answer_tells_trials_differences_and_tolerances() -> None:
    body = (await post("/compare", {**COMPARE, "atol": 0.5, "rtol": 0.125}, wrong_answer)).json()
    result = body["kernel_exec_result"]
    assert (result["compiled"], result["correctness"]) == (True, False)
    error = result["validation_error"]
    assert "output[0]: shape [4] expected, [5] returned" in error
    assert "1/2 trials passed" in error
    assert "max difference 0.5; average difference 0.25" in error
    assert "atol=0.5, rtol=0.125" in error
    assert body["checks"][1]["outputs"][0]["first_mismatch"]["actual"] == "NaN"


@pytest.mark.parametrize("phase", [Phase.BUILD, Phase.CHECK])
async def test_a_failure_of_the_reference_is_told_as_such(phase: Phase) -> None:
    def script(request: JobRequest) -> JobReport:
        return failed(request, FaultKind.COMPILE_ERROR, phase, "reference")

    response = await post("/compare", COMPARE, script)
    body = response.json()
    result = body["kernel_exec_result"]
    assert response.status_code == 200
    assert body["verdict"] == "reference_failed"
    assert (result["compiled"], result["correctness"]) == (True, False)
    assert (
        f"the reference failed in phase {phase.value} (compile_error)"
        in (result["validation_error"])
    )
    assert "the reference did not survive" in result["validation_error"]


async def test_a_candidate_that_was_never_tried_says_why_it_was_not_compiled() -> None:
    def script(request: JobRequest) -> JobReport:
        report = failed(request, FaultKind.COMPILE_ERROR, Phase.BUILD, "reference")
        return report.model_copy(update={"candidate": side(compiled=False, runtime=None)})

    result = (await post("/compare", COMPARE, script)).json()["kernel_exec_result"]
    assert result["compiled"] is False
    assert "because the reference failed first" in result["compilation_error"]
    assert "the reference did not survive" in result["validation_error"]


@pytest.mark.parametrize("whose", ["candidate", "reference"])
async def test_running_out_of_time_is_a_500_with_all_that_is_known(whose: Side) -> None:
    response = await post(
        "/compare",
        COMPARE,
        lambda request: failed(request, FaultKind.TIMEOUT, Phase.CHECK, whose),
    )
    assert response.status_code == 500
    body = response.json()
    assert body["status"] == "error"
    assert "Job timeout" in body["error"]
    assert body["verdict"] == ("timeout" if whose == "candidate" else "reference_failed")
    assert body["kernel_exec_result"]["compiled"] is True
    assert body["job_id"]
    assert_headers(response)


async def test_a_failure_of_the_judge_is_a_500() -> None:
    def script(request: JobRequest) -> JobReport:
        return partial(request, Phase.CHECK).model_copy(update={"error": "the judge died"})

    response = await post("/evaluate", EVALUATE, script)
    body = response.json()
    assert response.status_code == 500
    assert (body["status"], body["error"]) == ("error", "the judge died")
    assert body["verdict"] == "internal_error"
    result = body["kernel_exec_result"]
    assert result["compiled"] is True
    assert result["compilation_error"] is None, "no kernel is blamed for the judge"
    assert result["validation_error"] is None, "no kernel is blamed for the judge"


async def test_a_job_of_which_nothing_is_known_is_a_500_with_empty_results() -> None:
    def script(request: JobRequest) -> JobReport:
        raise RuntimeError("boom")

    response = await post("/evaluate", EVALUATE, script)
    assert response.status_code == 500
    body = response.json()
    assert body.pop("job_id")
    assert body == {
        "kernel_exec_result": {},
        "ref_runtime": {},
        "pod_name": "pod",
        "pod_ip": "10.0.0.1",
        "status": "error",
        "error": "the evaluator failed: RuntimeError: boom",
        "gpu_id": 0,
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body -> kernel"),
        ({"kernel": {"kernel_type": "torch"}}, "body -> kernel -> source_code"),
        ({"kernel": {**KERNEL, "kernel_type": "opencl"}}, "body -> kernel -> kernel_type"),
        ({"kernel": {**KERNEL, "colour": 1}}, "body -> kernel -> colour"),
        ({**EVALUATE, "num_trials": 0}, "body -> num_trials"),
        ({**EVALUATE, "num_trials": 10001}, "body -> num_trials"),
        ({**EVALUATE, "timeout": 4}, "body -> timeout"),
        ({**EVALUATE, "timeout": 601}, "body -> timeout"),
        ({**EVALUATE, "trials": 5}, "body -> trials"),
        ({"kernel": {**KERNEL, "metadata": {"mode": "x"}}}, "body -> kernel -> metadata -> mode"),
        ([], "body"),
        (None, "body"),
    ],
)
async def test_a_malformed_request_is_a_400_that_names_the_field(body: Any, field: str) -> None:
    response = await post("/evaluate", body)
    assert response.status_code == 400
    answer = response.json()
    assert set(answer) == {"error", "validation_errors", "status"}
    assert answer["error"] == "Invalid request format"
    assert answer["status"] == "client_error"
    assert [issue["field"] for issue in answer["validation_errors"]] == [field]
    for issue in answer["validation_errors"]:
        assert set(issue) == {"field", "message", "type"}
        assert issue["message"]
    assert_headers(response)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"ref_code": "x"}, ["body -> custom_code"]),
        ({"ref_code": "x", "custom_code": "y", "atol": 1}, ["body -> atol"]),
        ({"ref_kernel": KERNEL}, ["body -> custom_kernel"]),
        ({**COMPARE, "atol": -1, "rtol": 2}, ["body -> atol", "body -> rtol"]),
        (
            {**COMPARE, "custom_kernel": {**KERNEL, "io": {"args": [{"name": "x"}]}}},
            ["body -> custom_kernel -> io -> args -> 0"],
        ),
    ],
)
async def test_a_malformed_comparison_is_a_400_too(body: Any, fields: list[str]) -> None:
    response = await post("/compare", body)
    assert response.status_code == 400
    found = [issue["field"] for issue in response.json()["validation_errors"]]
    assert [field for field in fields if any(path.startswith(field) for path in found)] == fields


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b'{"kernel": NaN}', b"[" * 5000, b'{"a": "\\ud800"}']
)
async def test_what_is_no_json_is_a_400(raw: bytes) -> None:
    async with serving() as client:
        for path in ("/evaluate", "/compare", "/"):
            response = await client.post(path, content=raw)
            assert response.status_code == 400
            assert response.json()["status"] == "client_error"


async def test_a_body_of_mistakes_gets_a_short_answer() -> None:
    response = await post("/evaluate", {**EVALUATE, **{f"key{i}": i for i in range(5000)}})
    assert response.status_code == 400
    (issue,) = response.json()["validation_errors"]
    assert "5000 mistakes" in issue["message"]


async def test_triton_without_a_contract_breaks_a_rule() -> None:
    kernel = {"source_code": "@triton.jit\ndef k(): pass", "kernel_type": "triton"}
    for path, body in (
        ("/evaluate", {"kernel": kernel}),
        ("/compare", {"ref_kernel": KERNEL, "custom_kernel": kernel}),
    ):
        response = await post(path, body)
        assert response.status_code == 400
        answer = response.json()
        assert set(answer) == {"error", "details", "status"}
        assert "io_contract" in answer["error"]
        assert "kernel" in answer["details"]
        assert answer["status"] == "client_error"


async def test_a_missing_entry_point_breaks_a_rule() -> None:
    kernel = {"source_code": "x", "kernel_type": "multi_kernel", "io": {"args": []}}
    answer = (await post("/evaluate", {"kernel": kernel})).json()
    assert "entry_point must be specified in metadata" in answer["error"]


async def test_the_request_reaches_the_evaluator_whole() -> None:
    evaluator = ScriptedEvaluator()
    async with serving(evaluator) as client:
        fields = {"num_trials": 3, "num_warmup": 2, "num_checks": 4, "timeout": 33, "seed": 5}
        await client.post("/evaluate", json={**EVALUATE, **fields})
        await client.post("/compare", json={**COMPARE, **fields, "atol": 0.5})
    evaluated, compared = evaluator.requests
    for request in (evaluated, compared):
        assert {name: getattr(request, name) for name in fields} == fields
    assert isinstance(evaluated, EvaluateRequest)
    assert isinstance(compared, CompareRequest)
    assert (compared.atol, compared.rtol) == (0.5, None)


@pytest.mark.parametrize("path", ["/compare", "/"])
async def test_the_older_body_is_a_torch_reference_and_a_torch_cuda_candidate(path: str) -> None:
    evaluator = ScriptedEvaluator()
    async with serving(evaluator) as client:
        response = await client.post(path, json={"ref_code": "r", "custom_code": "c"})
    assert response.status_code == 200
    assert response.json()["ref_runtime"]["mean"] == 2.469
    (request,) = evaluator.requests
    assert isinstance(request, CompareRequest)
    assert request.ref_kernel.kernel_type is KernelType.TORCH
    assert request.custom_kernel.kernel_type is KernelType.TORCH_CUDA
    assert (request.ref_kernel.source_code, request.custom_kernel.source_code) == ("r", "c")
    assert request.timeout == 30


async def test_a_body_over_the_limit_is_a_413_with_and_without_its_length() -> None:
    body = json.dumps({"kernel": {**KERNEL, "source_code": "#" * 3000}}).encode()

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async with serving(max_body_bytes=2000) as client:
        for content in (body, stream()):
            response = await client.post("/evaluate", content=content)
            assert response.status_code == 413
            assert "larger than 2000 bytes" in response.json()["error"]
            assert response.json()["status"] == "client_error"
    async with serving(max_body_bytes=len(body)) as client:
        assert (await client.post("/evaluate", content=body)).status_code == 200


def assert_headers(response: httpx.Response, gpu_type: str | None = None) -> None:
    assert {name: response.headers.get(name) for name in NO_CACHE} == NO_CACHE
    assert response.headers.get("x-gpu-type") == gpu_type


async def test_judgements_are_never_cached() -> None:
    assert_headers(await post("/evaluate", EVALUATE))
    assert_headers(await post("/compare", COMPARE))


async def test_a_recognised_gpu_is_named_everywhere() -> None:
    evaluator = ScriptedEvaluator(
        lambda request: accepted(request, H200), environment=H200, device_name="cuda:3"
    )
    async with serving(evaluator) as client:
        response = await client.post("/evaluate", json=EVALUATE)
        assert_headers(response, "h200")
        assert_headers(await client.post("/evaluate", json={}), "h200")
    body = response.json()
    assert body["gpu_type"] == "h200"
    metadata = body["kernel_exec_result"]["metadata"]
    assert metadata["gpu_type"] == "h200"
    assert metadata["cuda_version"] == "13.0"
    assert metadata["gpu_id"] == 3


@pytest.mark.parametrize(("setting", "header"), [("A100", "a100"), ("rtx4090", None)])
async def test_the_gpu_type_that_is_set_wins(setting: str, header: str | None) -> None:
    evaluator = ScriptedEvaluator(lambda request: accepted(request, H200), environment=H200)
    async with serving(evaluator, gpu_type=setting) as client:
        assert_headers(await client.post("/evaluate", json=EVALUATE), header)


async def test_a_job_tells_its_state_while_it_runs_and_its_result_after() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD, Phase.CHECK))
    async with serving(evaluator) as client:
        accepted_job = await client.post("/compare?wait=false", json=COMPARE)
        job_id = accepted_job.json()["job_id"]
        evaluator.step()
        body: dict[str, Any] = {}
        while body.get("status") != "validating":
            await asyncio.sleep(0)  # a request in this process may never pause by itself
            body = (await client.get(f"/job/{job_id}")).json()
        assert body["result"] is None, "a partial report has no verdict to show"
        assert body["phase"] == "check"
        assert body["started_at"] >= body["created_at"]
        evaluator.step()
        done = (await client.get(f"/job/{job_id}?wait=60")).json()
    assert done["status"] == "completed"
    assert done["error"] is None
    assert done["verdict"] == done["result"]["verdict"] == "accepted"
    assert isinstance(JobResponse.model_validate(done).result, CompareResponse)


async def test_a_failed_job_tells_its_error() -> None:
    def script(request: JobRequest) -> JobReport:
        return failed(request, FaultKind.TIMEOUT, Phase.CHECK)

    async with serving(ScriptedEvaluator(script)) as client:
        answer = (await client.post("/evaluate", json=EVALUATE)).json()
        job = (await client.get(f"/job/{answer['job_id']}")).json()
    assert job["status"] == "failed"
    assert job["error"] == answer["error"]
    assert isinstance(JobResponse.model_validate(job).result, EvaluateResponse)


async def test_an_unknown_job_is_a_404() -> None:
    async with serving() as client:
        response = await client.get("/job/none")
    assert response.status_code == 404
    assert set(response.json()) == {"error", "status"}
    assert "'none'" in response.json()["error"]
    assert response.json()["status"] == "error"
    assert_headers(response)


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/x", 404), ("GET", "/compare", 405)])
async def test_other_http_errors_have_the_same_form(method: str, path: str, code: int) -> None:
    async with serving() as client:
        response = await client.request(method, path)
    assert response.status_code == code
    assert response.json() == {"error": response.json()["error"], "status": "error"}


async def test_health_has_the_fields_of_both_guides() -> None:
    evaluator = ScriptedEvaluator(environment=H200, device_name="cuda:3")
    async with serving(evaluator) as client:
        response = await client.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert body["status"] == "healthy"
    assert body["job_stats"] == {"total_jobs": 0, "by_status": {}, "average_age": 0}
    assert body["gpu_manager"] == {"available_gpus": [3]}
    assert body["compilation_service"] == body["profiling_service"] == "ready"
    assert (body["gpu_available"], body["gpu_count"]) == (True, 1)
    (device,) = body["devices"]
    assert device["environment"]["device_name"] == "NVIDIA H200"


async def test_health_tells_a_cpu_from_a_gpu() -> None:
    async with serving(ScriptedEvaluator(environment=CPU)) as client:
        body = (await client.get("/health")).json()
    assert body["status"] == "healthy"
    assert (body["gpu_available"], body["gpu_count"]) == (False, 0)
    assert body["gpu_manager"] == {"available_gpus": []}


async def test_health_tells_which_layers_confine_kernels_and_why_one_does_not() -> None:
    class Confined(ScriptedEvaluator):
        def devices(self) -> list[DeviceState]:
            (state,) = super().devices()
            state.layers = [
                SandboxLayer(name="resource limits", active=True),
                SandboxLayer(name="landlock", active=False, reason="Linux is too old"),
            ]
            return [state]

    async with serving(Confined(environment=CPU)) as client:
        (device,) = (await client.get("/health")).json()["devices"]
    assert device["confinement"] == [
        {"name": "resource limits", "active": True, "reason": None},
        {"name": "landlock", "active": False, "reason": "Linux is too old"},
    ]


async def test_health_is_a_500_when_no_device_takes_jobs() -> None:
    async with serving(ScriptedEvaluator(ready=False)) as client:
        response = await client.get("/health")
    assert response.status_code == 500
    assert response.json()["status"] == "unhealthy"
    assert "cpu" in response.json()["error"]
    assert response.json()["compilation_service"] == "unavailable"


async def test_a_database_that_does_not_answer_is_a_503_and_shows_in_the_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise DatabaseUnusable("the database cannot be reached: disk full")

    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        for name in ("create", "get", "page", "counts", "check"):
            monkeypatch.setattr(SqlStore, name, broken)
        for answer in (
            await client.post("/evaluate", json=EVALUATE),
            await client.post("/batch", json={"requests": [EVALUATE]}),
            await client.get(f"/job/{uuid4()}"),
            await client.get("/jobs"),
            await client.get("/stats"),
        ):
            assert answer.status_code == 503
            assert "disk full" in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
        health = await client.get("/health")
        ready = await client.get("/health/ready")
        assert (await client.get("/health/live")).status_code == 200
    assert health.status_code == 500
    assert health.json()["database"] == "unusable"
    assert "disk full" in health.json()["error"]
    assert ready.status_code == 503
    assert "disk full" in ready.json()["error"]


async def test_a_server_without_a_ready_device_is_alive_and_not_ready() -> None:
    async with serving(ScriptedEvaluator(ready=False)) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        ready = await client.get("/health/ready")
    assert ready.status_code == 503
    assert "cpu" in ready.json()["error"]


async def test_asking_for_the_health_again_and_again_costs_the_database_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with application(ScriptedEvaluator()) as (app, service), client_of(app) as client:
        asked = 0
        counts = service.job_stats

        async def counting(key_id: str | None = None) -> dict[str, Any]:
            nonlocal asked
            asked += 1
            return await counts(key_id)

        monkeypatch.setattr(service, "job_stats", counting)
        monkeypatch.setattr("kerneljudge.api.insight._MAX_AGE", 3600)
        answers = await asyncio.gather(*(client.get("/health") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert asked == 1


async def test_health_and_stats_answer_while_jobs_run_and_bodies_are_read() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.BUILD,), environment=H200, device_name="cuda:3")
    async with serving(evaluator, max_source_bytes=2**23) as client:
        big = {"kernel": {**KERNEL, "source_code": "#" * 4_000_000}}
        jobs = [asyncio.create_task(client.post("/evaluate", json=big)) for _ in range(3)]
        while evaluator.running < 3:
            await asyncio.sleep(0)
            assert (await client.get("/health")).status_code == 200
        health = HealthResponse.model_validate((await client.get("/health")).json())
        assert health.gpu_manager.available_gpus == []
        assert health.devices[0].jobs == 3
        assert not any(job.done() for job in jobs)
        stats = (await client.get("/stats")).json()
        assert stats["throughput"]["active_requests"] == 3
        evaluator.step(3)
        assert [(await job).status_code for job in jobs] == [200] * 3


async def test_stats_has_every_group() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    evaluator.step()
    async with serving(evaluator) as client:
        await client.post("/evaluate", json=EVALUATE)
        body = (await client.get("/stats")).json()
    assert body["job_stats"]["by_status"] == {"completed": 1}
    assert body["compilation_metrics"]["total_compilations"] == 1
    assert body["profiling_metrics"]["correctness_passed"] == 1
    assert body["gpu_utilization"]["utilization_by_gpu"]["cpu"]["jobs"] == 1
    assert body["throughput"]["completed_requests"] == 1
    assert body["jobs_completed"] == 1
    assert body["avg_runtime_ms"] == pytest.approx(1.23456)
    assert body["timestamp"] > 0


async def test_cleanup_drops_only_old_jobs() -> None:
    async with serving() as client:
        job_id = (await client.post("/evaluate", json=EVALUATE)).json()["job_id"]
        response = await client.post("/admin/cleanup-jobs")
        assert response.json() == {"status": "cleanup_completed", "removed_jobs": 0}
        assert (await client.get(f"/job/{job_id}")).status_code == 200


async def test_numbers_that_are_no_numbers_leave_the_body_valid_json() -> None:
    def script(request: JobRequest) -> JobReport:
        stats = RuntimeStats(mean=float("inf"))
        return accepted(request).model_copy(update={"candidate": side(runtime=stats)})

    response = await post("/evaluate", EVALUATE, script)
    json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
