"""The tools, called by the SDK's client: over HTTP unless a test says otherwise."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import anyio
import httpx
import jsonschema
import pytest
from mcp import MCPError
from memory_keys import MemoryKeys, api_key
from scripted import H200, ScriptedEvaluator, accepted, failed

from kerneljudge.api.mcp.examples import KERNELS, calls
from kerneljudge.schema import (
    CompareRequest,
    EvaluateRequest,
    FaultKind,
    KernelType,
    Phase,
    Verdict,
)
from kerneljudge.service.access import Scope
from kerneljudge.service.records import JobState

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(60)]

TRITON = calls(KernelType.TRITON)
ALONE = TRITON["validate_kernel"]
WITH_REFERENCE = TRITON["evaluate_kernel"]
TWO = TRITON["compare_kernels"]
JUDGING = ("evaluate_kernel", "validate_kernel", "compare_kernels")
STEPS = (Phase.READ, Phase.BUILD, Phase.LOAD, Phase.CHECK, Phase.PROFILE)


async def call(client, tool, arguments, **options):
    """A call that succeeds: its structured content, which its schema allows."""
    result = await client.call_tool(tool, arguments, **options)
    assert not result.is_error, result.content
    (listed,) = (one for one in (await client.list_tools()).tools if one.name == tool)
    jsonschema.validate(result.structured_content, listed.output_schema)
    return result.structured_content


async def refused(client, tool, arguments):
    """A call that fails: its structured content."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content["status"] == "failed"
    assert result.structured_content["error"] in result.content[0].text
    return result.structured_content


def fields(answer):
    return [problem["field"] for problem in answer["problems"]]


async def test_every_tool_is_listed_with_its_arguments(serve):
    async with serve() as serving, serving.http() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {name: list(tool.input_schema["properties"]) for name, tool in tools.items()} == {
        "evaluate_kernel": [
            "kernel_source",
            "kernel_type",
            "io_contract",
            "metadata",
            "reference_kernel_source",
            "reference_kernel_type",
            "reference_io_contract",
            "reference_kernel_metadata",
            "num_trials",
            "num_warmup",
            "atol",
            "rtol",
            "timeout",
            "enable_device_metrics",
        ],
        "validate_kernel": ["kernel_source", "kernel_type", "io_contract", "metadata", "timeout"],
        "compare_kernels": [
            "ref_kernel_source",
            "ref_kernel_type",
            "ref_kernel_io",
            "ref_kernel_metadata",
            "custom_kernel_source",
            "custom_kernel_type",
            "custom_kernel_io",
            "custom_kernel_metadata",
            "num_trials",
            "num_warmup",
            "atol",
            "rtol",
            "timeout",
        ],
        "get_server_stats": [],
        "get_job_status": ["job_id"],
    }
    for tool in tools.values():
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        for name, argument in tool.input_schema["properties"].items():
            assert argument.get("description"), f"{tool.name} does not explain {name}"


async def test_the_defaults_are_those_of_the_tools(serve):
    evaluator = ScriptedEvaluator()
    async with serve(evaluator) as serving, serving.http() as client:
        await call(client, "evaluate_kernel", ALONE)
        await call(client, "evaluate_kernel", {**WITH_REFERENCE, "num_trials": 100})
        await call(client, "validate_kernel", ALONE)
        await call(client, "compare_kernels", {**TWO, "num_trials": 100})
    alone, with_reference, validated, compared = evaluator.requests
    assert isinstance(alone, EvaluateRequest)
    for request in (alone, with_reference, compared):
        assert (request.num_trials, request.num_warmup, request.timeout) == (100, 10, 120)
    assert (with_reference.atol, with_reference.rtol) == (1e-8, 1e-5)
    assert (compared.atol, compared.rtol) == (1e-5, 1e-5)
    assert (validated.num_trials, validated.num_warmup, validated.num_checks) == (1, 0, 1)
    assert validated.timeout == 60


async def test_evaluate_kernel_passes_every_argument_on(serve):
    evaluator = ScriptedEvaluator()
    given = WITH_REFERENCE | {
        "num_trials": 7,
        "num_warmup": 3,
        "atol": 0.25,
        "rtol": 0.125,
        "timeout": 33,
    }
    async with serve(evaluator) as serving, serving.http() as client:
        answer = await call(client, "evaluate_kernel", given)
        await call(client, "evaluate_kernel", {**ALONE, "num_warmup": 4, "timeout": 9})
    compared, alone = evaluator.requests
    assert isinstance(compared, CompareRequest)
    assert (compared.num_trials, compared.num_warmup, compared.timeout) == (7, 3, 33)
    assert (compared.atol, compared.rtol) == (0.25, 0.125)
    kernel = KERNELS[KernelType.TRITON]
    assert compared.custom_kernel.source_code == kernel["source_code"]
    assert compared.custom_kernel.kernel_type is KernelType.TRITON
    assert compared.custom_kernel.metadata == kernel["metadata"]
    assert compared.custom_kernel.io.launch.grid.x == 16
    reference = KERNELS[KernelType.TORCH]
    assert compared.ref_kernel.source_code == reference["source_code"]
    assert compared.ref_kernel.metadata == reference["metadata"]
    assert [arg.name for arg in compared.ref_kernel.io.args] == ["x", "y"]
    assert (alone.num_warmup, alone.timeout) == (4, 9)
    assert answer["tolerances"] == {"atol": 0.25, "rtol": 0.125, "exact_integers": True}


async def test_a_reference_is_torch_unless_its_type_is_given(serve):
    evaluator = ScriptedEvaluator()
    kernel = KERNELS[KernelType.TRITON]
    async with serve(evaluator) as serving, serving.http() as client:
        source = {**ALONE, "reference_kernel_source": "class Model: ..."}
        await call(client, "evaluate_kernel", source)
        told = {
            "reference_kernel_source": kernel["source_code"],
            "reference_kernel_type": "triton",
            "reference_io_contract": kernel["io"],
        }
        await call(client, "evaluate_kernel", ALONE | told)
    assert evaluator.requests[0].ref_kernel.kernel_type is KernelType.TORCH
    assert evaluator.requests[1].ref_kernel.kernel_type is KernelType.TRITON


async def test_compare_kernels_passes_every_argument_on(serve):
    evaluator = ScriptedEvaluator()
    given = TWO | {"num_trials": 8, "num_warmup": 2, "atol": 0.5, "rtol": 0.0, "timeout": 44}
    async with serve(evaluator) as serving, serving.http() as client:
        answer = await call(client, "compare_kernels", given)
    (request,) = evaluator.requests
    assert (request.num_trials, request.num_warmup, request.timeout) == (8, 2, 44)
    assert (request.atol, request.rtol) == (0.5, 0.0)
    assert request.ref_kernel.source_code == TWO["ref_kernel_source"]
    assert request.ref_kernel.kernel_type is KernelType.TORCH
    assert request.ref_kernel.metadata == TWO["ref_kernel_metadata"]
    assert [arg.name for arg in request.ref_kernel.io.args] == ["x", "y"]
    assert request.custom_kernel.source_code == TWO["custom_kernel_source"]
    assert request.custom_kernel.kernel_type is KernelType.TRITON
    assert request.custom_kernel.metadata == TWO["custom_kernel_metadata"]
    assert [arg.name for arg in request.custom_kernel.io.args] == ["x", "y", "z", "n", "BLOCK_SIZE"]
    assert answer["speedup"] == 2.0
    assert answer["runtime_stats"]["mean"] == 1.235
    assert answer["ref_runtime"]["mean"] == 2.469


async def test_validate_kernel_passes_every_argument_on(serve):
    evaluator = ScriptedEvaluator()
    async with serve(evaluator) as serving, serving.http() as client:
        answer = await call(client, "validate_kernel", {**ALONE, "timeout": 17})
    (request,) = evaluator.requests
    kernel = KERNELS[KernelType.TRITON]
    assert request.kernel.source_code == kernel["source_code"]
    assert request.kernel.metadata == kernel["metadata"]
    assert request.timeout == 17
    assert answer["validated"] is True
    assert answer["compiled"] is True
    assert answer["compilation_time"] == 0.5
    assert answer["metadata"]["algorithm"] == "elementwise"
    assert {"compilation_error", "validation_error", "job_id", "status"} <= set(answer)


async def test_hardware_counters_that_are_asked_for_are_said_to_be_missing(serve):
    async with serve() as serving, serving.http() as client:
        without = await call(client, "evaluate_kernel", ALONE)
        asked = await call(client, "evaluate_kernel", {**ALONE, "enable_device_metrics": True})
    assert without["device_metrics_unavailable"] is None
    assert "hardware counters" in asked["device_metrics_unavailable"]


async def test_tolerances_without_a_reference_are_said_to_have_no_effect(serve):
    async with serve() as serving, serving.http() as client:
        answer = await call(client, "evaluate_kernel", {**ALONE, "atol": 0.1})
        assert "atol without effect: there is no reference_kernel_source" in answer["notes"]
        assert not (await call(client, "evaluate_kernel", ALONE))["notes"]
        assert not (await call(client, "evaluate_kernel", WITH_REFERENCE | {"atol": 0.1}))["notes"]


async def test_the_text_tells_verdict_speedup_and_how_it_was_timed(serve):
    async with serve(ScriptedEvaluator(environment=H200)) as serving, serving.http() as client:
        text = (await client.call_tool("compare_kernels", TWO)).content[0].text
    assert text.startswith("accepted on ")
    assert "speedup 2.000" in text
    assert "100 runs after 10 untimed, by cuda_graph" in text


@pytest.mark.parametrize("phase", [Phase.BUILD, Phase.CHECK])
async def test_a_kernel_that_fails_is_an_answer_with_a_hint_and_no_error(serve, phase):
    evaluator = ScriptedEvaluator(lambda request: failed(request, FaultKind.RUNTIME_ERROR, phase))
    async with serve(evaluator) as serving, serving.http() as client:
        judged = await call(client, "compare_kernels", TWO)
        validated = await call(client, "validate_kernel", ALONE)
        text = (await client.call_tool("validate_kernel", ALONE)).content[0].text
    error = "compilation_error" if phase is Phase.BUILD else "validation_error"
    for answer in (judged, validated):
        assert answer["verdict"] == "runtime_error"
        assert answer["compiled"] is (phase is Phase.CHECK)
        assert "the candidate did not survive" in answer[error]
        assert answer["hint"] == "write it otherwise"
    assert judged["correctness"] is False
    assert judged["runtime"] is judged["speedup"] is None
    assert validated["validated"] is False
    assert (validated["compilation_time"] is None) is (phase is Phase.BUILD)
    assert "write it otherwise" in text


async def test_a_failure_of_the_judge_is_an_error(serve):
    def broken(request):
        update = {"verdict": Verdict.INTERNAL_ERROR, "error": "the judge broke"}
        return accepted(request).model_copy(update=update)

    async with serve(ScriptedEvaluator(broken)) as serving, serving.http() as client:
        result = await client.call_tool("validate_kernel", ALONE)
    assert result.is_error
    assert "the judge broke" in result.content[0].text


MISTAKES = [
    ("evaluate_kernel", {"kernel_source": None}, "kernel_source"),
    ("evaluate_kernel", {"kernel_source": ""}, "kernel_source"),
    ("evaluate_kernel", {"kernel_type": "cobol"}, "kernel_type"),
    ("evaluate_kernel", {"io_contract": None}, "io_contract"),
    ("evaluate_kernel", {"io_contract": "{"}, "io_contract"),
    ("evaluate_kernel", {"io_contract": {"args": []}}, "io_contract -> launch -> grid"),
    ("evaluate_kernel", {"metadata": {"kernel_name": 7}}, "metadata -> kernel_name"),
    (
        "evaluate_kernel",
        {"kernel_type": "multi_kernel", "metadata": None},
        "metadata -> entry_point",
    ),
    ("evaluate_kernel", {"num_trials": 0}, "num_trials"),
    ("evaluate_kernel", {"num_warmup": -1}, "num_warmup"),
    ("evaluate_kernel", {"timeout": 1}, "timeout"),
    ("evaluate_kernel", {"atol": 2}, "atol"),
    ("evaluate_kernel", {"reference_io_contract": {"args": []}}, "reference_kernel_source"),
    (
        "evaluate_kernel",
        {"reference_kernel_source": "x", "reference_kernel_type": "triton"},
        "reference_io_contract",
    ),
    (
        "evaluate_kernel",
        {"reference_kernel_source": "x", "reference_kernel_metadata": {"mode": "fast"}},
        "reference_kernel_metadata -> mode",
    ),
    ("validate_kernel", {"num_trials": 5}, "num_trials"),
    ("validate_kernel", {"kernel_source": "a\0b"}, "kernel_source"),
]


async def test_a_mistake_is_told_by_its_argument(serve):
    evaluator = ScriptedEvaluator()
    async with serve(evaluator) as serving, serving.http() as client:
        for tool, given, field in MISTAKES:
            arguments = {
                name: value for name, value in (ALONE | given).items() if value is not None
            }
            answer = await refused(client, tool, arguments)
            assert fields(answer) == [field], f"{tool} with {given}"
            assert answer["compiled"] is False
            assert answer["job_id"] is None
    assert not evaluator.requests


async def test_the_mistakes_of_both_kernels_are_told_at_once(serve):
    given = TWO | {"custom_kernel_io": None, "ref_kernel_metadata": {"function_name": 1}}
    async with serve() as serving, serving.http() as client:
        answer = await refused(client, "compare_kernels", given)
    assert fields(answer) == ["ref_kernel_metadata -> function_name", "custom_kernel_io"]


async def test_following_the_examples_of_a_refusal_mends_the_call(serve):
    wrong = {"kernel_source": ALONE["kernel_source"], "kernel_type": "triton", "io_contract": {}}
    async with serve() as serving, serving.http() as client:
        answer = await refused(client, "validate_kernel", wrong)
        await call(client, "validate_kernel", wrong | answer["example"])


async def test_an_unknown_argument_is_answered_with_those_that_there_are(serve):
    async with serve() as serving, serving.http() as client:
        answer = await refused(client, "get_job_status", {"job_id": "x", "id": "x"})
    assert fields(answer) == ["id"]
    assert "job_id" in answer["problems"][0]["message"]


async def test_an_unknown_tool_is_answered_with_those_that_there_are(serve):
    async with serve() as serving, serving.http() as client:
        answer = await refused(client, "run_kernel", {})
    for tool in JUDGING:
        assert tool in answer["error"]


async def test_contracts_may_hold_nulls_and_come_as_text(serve):
    contract = json.loads(json.dumps(ALONE["io_contract"]))
    contract["args"][2]["tensor_spec"] |= {"init": None, "data": None}
    torch = calls(KernelType.TORCH)["validate_kernel"]
    async with serve() as serving, serving.http() as client:
        await call(client, "validate_kernel", {**ALONE, "io_contract": contract})
        await call(client, "validate_kernel", {**ALONE, "io_contract": json.dumps(contract)})
        without = {**torch["io_contract"], "launch": None}
        await call(client, "validate_kernel", {**torch, "io_contract": without})


async def test_the_examples_are_ready_to_send(serve):
    async with serve() as serving, serving.http() as client:
        for kernel_type in KernelType:
            read = await client.read_resource(f"kerneljudge://examples/{kernel_type}")
            examples = json.loads(read.contents[0].text)
            assert set(examples) == set(JUDGING)
            for tool, arguments in examples.items():
                await call(client, tool, arguments)
                request = serving.evaluator.requests[-1]
                kernel = getattr(request, "kernel", None) or request.custom_kernel
                assert kernel.kernel_type is kernel_type


async def test_the_schema_of_contracts_allows_the_examples_and_no_other(serve):
    async with serve() as serving, serving.http() as client:
        read = await client.read_resource("kerneljudge://schema/io-contract")
        guides = [
            await client.read_resource(f"kerneljudge://guide/{kernel_type}")
            for kernel_type in KernelType
        ]
    schema = json.loads(read.contents[0].text)
    for kernel in KERNELS.values():
        jsonschema.validate(kernel["io"], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"args": [{"name": "x"}]}, schema)
    for kernel_type, guide in zip(KernelType, guides, strict=True):
        assert f"kerneljudge://examples/{kernel_type}" in guide.contents[0].text


async def test_every_listed_resource_can_be_read_and_no_other(serve):
    async with serve() as serving, serving.http() as client:
        for resource in (await client.list_resources()).resources:
            (content,) = (await client.read_resource(resource.uri)).contents
            assert content.mime_type == resource.mime_type
            assert len(content.text.encode()) == resource.size
        templates = (await client.list_resource_templates()).resource_templates
        assert {one.uri_template for one in templates} == {
            "kerneljudge://examples/{kernel_type}",
            "kerneljudge://guide/{kernel_type}",
        }
        with pytest.raises(MCPError, match="kerneljudge://guide/triton"):
            await client.read_resource("kerneljudge://guide/fortran")


async def test_a_job_can_be_looked_up_while_it_runs_and_after(serve):
    evaluator = ScriptedEvaluator(steps=STEPS[:1])
    seen = asyncio.Event()
    ids: list[str] = []

    async def progress(_done, _total, message):
        ids.append(message.split()[1].rstrip(":"))
        if "phase" in message:
            seen.set()

    async with serve(evaluator) as serving, serving.http() as client:
        judging = asyncio.create_task(
            call(client, "evaluate_kernel", WITH_REFERENCE, progress_callback=progress)
        )
        await seen.wait()
        running = await call(client, "get_job_status", {"job_id": ids[0]})
        evaluator.step()
        answer = await judging
        ended = await call(client, "get_job_status", {"job_id": ids[0]})
    assert answer["job_id"] == ids[0]
    assert running["status"] == "compiling"
    assert running["result"] is None
    assert ended["status"] == "completed"
    assert ended["result"] == answer
    assert ended["kind"] == "compare"


async def test_an_unknown_job_is_not_found(serve):
    async with serve() as serving, serving.http() as client:
        answer = await call(client, "get_job_status", {"job_id": "nothing"})
    assert answer["status"] == "not_found"
    assert answer["job_id"] == "nothing"


NVIDIA_SMI = """\
#!/bin/sh
case "$*" in
    *memory.used*) printf 'GPU-0, 11, 1, 100\\nGPU-1, 2048, 512, 143771\\n' ;;
    *) printf 'GPU-0\\nGPU-1\\n' ;;
esac
"""


async def test_server_stats_tell_of_the_gpus_that_the_server_sees(serve, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    evaluator = ScriptedEvaluator(environment=H200, device_name="cuda:0")
    async with serve(evaluator) as serving, serving.http() as client:
        await call(client, "validate_kernel", ALONE)
        answer = await call(client, "get_server_stats", {})
    assert answer["status"] == "healthy"
    assert answer["gpu_available"] is True
    assert answer["gpu_count"] == 1
    assert answer["gpu_info"] == [
        {
            "device_id": 0,
            "device_name": "NVIDIA H200",
            "memory_allocated_mb": 2048,
            "memory_reserved_mb": 512,
            "memory_total_mb": 143771,
            "memory_unavailable": None,
            "ready": True,
            "jobs": 0,
        }
    ]
    assert answer["job_stats"]["by_status"] == {"completed": 1}


async def test_server_stats_say_why_a_figure_is_missing(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    evaluator = ScriptedEvaluator(
        environment=H200, device_name="cuda:0", memory_bytes=2**30, ready=False
    )
    async with serve(evaluator) as serving, serving.http() as client:
        answer = await call(client, "get_server_stats", {})
    (gpu,) = answer["gpu_info"]
    assert gpu["memory_allocated_mb"] is gpu["memory_reserved_mb"] is None
    assert gpu["memory_total_mb"] == 1024
    assert gpu["memory_unavailable"] == "this machine has no nvidia-smi"
    assert answer["status"] == "unhealthy"
    assert answer["gpu_available"] is False
    assert "cuda:0" in answer["error"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_tells_the_phases_in_order(serve, mode):
    evaluator = ScriptedEvaluator(steps=STEPS)
    told: list[tuple[float, float, str]] = []

    async def progress(done, total, message):
        told.append((done, total, message))
        evaluator.step()

    async with serve(evaluator) as serving, serving.http(mode=mode) as client:
        await call(client, "compare_kernels", TWO, progress_callback=progress)
    places = [done for done, _, _ in told]
    assert places == sorted(set(places))
    assert places[-1] == told[-1][1] == 6
    for phase in ("build", "load", "check", "profile"):
        assert any(f"phase {phase}" in message for _, _, message in told)


@pytest.mark.parametrize(
    ("transport", "mode"), [("http", "auto"), ("http", "legacy"), ("stdio", "auto")]
)
async def test_a_cancelled_call_cancels_its_job_and_frees_the_device(serve, transport, mode):
    evaluator = ScriptedEvaluator(steps=STEPS)
    judging = anyio.Event()

    async def progress(_done, _total, message):
        if "phase" in message:
            judging.set()

    async with serve(evaluator) as serving, getattr(serving, transport)(mode=mode) as client:
        async with anyio.create_task_group() as group:

            async def judge():
                await client.call_tool("compare_kernels", TWO, progress_callback=progress)

            group.start_soon(judge)
            await judging.wait()
            (job_id,) = (job for job, _ in evaluator.judged)
            group.cancel_scope.cancel()
        job = await serving.service.wait(job_id, 30)
        assert job.state is JobState.CANCELLED
        assert evaluator.cancelled == [job_id]


async def test_a_server_that_takes_no_more_jobs_says_when_to_try_again(serve):
    evaluator = ScriptedEvaluator(ready=False)
    async with (
        serve(evaluator, max_queued=1) as serving,
        serving.http() as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: client.call_tool("validate_kernel", ALONE))
        while serving.service.queue()["waiting"] == 0:
            await anyio.sleep(0.01)
        answer = await refused(client, "validate_kernel", ALONE)
        group.cancel_scope.cancel()
    assert answer["retry_after"] > 0
    assert answer["compiled"] is None


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_limits_of_a_server_are_told_by_their_argument(serve, transport):
    source = "#" + "x" * 2000
    async with (
        serve(max_source_bytes=1024, max_trials=50) as serving,
        getattr(serving, transport)() as client,
    ):
        answer = await refused(client, "validate_kernel", {**ALONE, "kernel_source": source})
        too_many = await refused(client, "compare_kernels", {**TWO, "num_trials": 51})
        # What the caller leaves to the server is within its limits.
        answered = await call(client, "evaluate_kernel", ALONE) if transport == "http" else None
    told = json.dumps([answer, too_many])
    assert "KERNELJUDGE_MAX_SOURCE_BYTES" in told
    assert "KERNELJUDGE_MAX_TRIALS" in told
    if transport == "http":
        assert fields(answer) == ["kernel_source"]
        assert fields(too_many) == ["num_trials"]
        assert answered["verdict"] == "accepted"


KEYS = MemoryKeys(
    api_key("ann"),
    api_key("bob"),
    api_key("reader", Scope.READ),
    api_key("sender", Scope.SUBMIT),
    api_key("boss", Scope.ADMIN),
)


async def test_the_jobs_of_one_key_are_invisible_to_another(serve):
    async with serve(keys=KEYS) as serving:
        async with serving.http("secret-ann") as ann:
            job_id = (await call(ann, "validate_kernel", ALONE))["job_id"]
            assert (await call(ann, "get_job_status", {"job_id": job_id}))["status"] == "completed"
        async with serving.http("secret-bob") as bob:
            seen = await call(bob, "get_job_status", {"job_id": job_id})
            stats = await call(bob, "get_server_stats", {})
        async with serving.http("secret-boss") as boss:
            shown = await call(boss, "get_job_status", {"job_id": job_id})
        async with serving.stdio("secret-bob") as bob:
            own = await call(bob, "validate_kernel", ALONE)
            over_stdio = await call(bob, "get_job_status", {"job_id": job_id})
    assert seen["status"] == over_stdio["status"] == "not_found"
    assert shown["status"] == own["status"] == "completed"
    assert stats["job_stats"]["total_jobs"] == 0


async def test_a_key_does_what_its_scopes_allow(serve):
    async with serve(keys=KEYS) as serving:
        async with serving.http("secret-reader") as reader:
            await call(reader, "get_server_stats", {})
            answer = await refused(reader, "validate_kernel", ALONE)
            assert "scope submit" in answer["error"]
        async with serving.http("secret-sender") as sender:
            await call(sender, "validate_kernel", ALONE)
            assert "scope read" in (await refused(sender, "get_server_stats", {}))["error"]


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def test_without_its_key_nothing_is_told(serve):
    async with serve(keys=KEYS) as serving, httpx.AsyncClient(trust_env=False) as http:
        url = f"{serving.url}/mcp"
        assert (await http.post(url, json=INITIALIZE, headers=ACCEPT)).status_code == 401
        wrong = ACCEPT | {"Authorization": "Bearer wrong"}
        assert (await http.post(url, json=INITIALIZE, headers=wrong)).status_code == 401
        assert (await http.get(url)).status_code == 401
        assert (await http.delete(url)).status_code == 401


async def test_a_session_belongs_to_the_key_that_began_it(serve):
    async with serve(keys=KEYS) as serving, httpx.AsyncClient(trust_env=False) as http:
        url = f"{serving.url}/mcp"
        ann, bob = (ACCEPT | {"X-API-Key": f"secret-{name}"} for name in ("ann", "bob"))
        begun = await http.post(url, json=INITIALIZE, headers=ann)
        session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert (await http.post(url, json=ping, headers=ann | session)).status_code == 200
        assert (await http.post(url, json=ping, headers=bob | session)).status_code == 404
        assert (await http.delete(url, headers=bob | session)).status_code == 404
        assert (await http.delete(url, headers=ann | session)).status_code == 200


async def test_without_keys_only_local_names_and_pages_may_call(serve):
    async with serve() as serving, httpx.AsyncClient(trust_env=False) as http:
        for headers, status in (
            ({}, 200),
            ({"Origin": "http://localhost:3000"}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://["}, 403),
            ({"Host": "evil.example"}, 403),
        ):
            url = f"{serving.url}/mcp"
            answer = await http.post(url, json=INITIALIZE, headers=ACCEPT | headers)
            assert answer.status_code == status, headers


async def test_a_server_that_stops_leaves_the_jobs_of_calls_to_the_next_one(serve):
    evaluator = ScriptedEvaluator(steps=STEPS)
    judging = anyio.Event()
    answers = []

    async def progress(_done, _total, message):
        if "phase" in message:
            judging.set()

    async with serve(evaluator) as serving, serving.http() as client:

        async def judge():
            answers.append(
                await client.call_tool("compare_kernels", TWO, progress_callback=progress)
            )

        async with anyio.create_task_group() as group:
            group.start_soon(judge)
            await judging.wait()
            await serving.service.stop()
        (job_id,) = (job for job, _ in evaluator.judged)
        job = await serving.service.get(job_id)
    assert job.state is JobState.QUEUED
    (answer,) = answers
    assert answer.is_error
    assert answer.structured_content["job_id"] == job_id


@pytest.mark.parametrize("by", ["end of input", "signal"])
async def test_over_stdio_it_ends_in_order_and_writes_nothing_but_the_protocol(serve, by):
    evaluator = ScriptedEvaluator(steps=STEPS)
    messages = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {
                "name": "compare_kernels",
                "arguments": TWO,
                "_meta": {"progressToken": "token"},
            },
        },
    ]
    async with serve(evaluator) as serving:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kerneljudge", "mcp", "--url", serving.url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        process.stdin.writelines(json.dumps(message).encode() + b"\n" for message in messages)
        process.stdin.write(b"this is no JSON\n")
        said = []
        while not any("phase read" in line for line in said):
            said.append((await process.stdout.readline()).decode())
        if by == "signal":
            process.terminate()
        else:
            process.stdin.close()
        rest, _ = await process.communicate()
        (job_id,) = (job for job, _ in evaluator.judged)
        assert (await serving.service.wait(job_id)).state is JobState.CANCELLED
    assert process.returncode == 0
    told = [json.loads(line) for line in (*said, *rest.decode().splitlines())]
    assert {message["jsonrpc"] for message in told} == {"2.0"}
    (begun,) = (message["result"] for message in told if message.get("id") == 1)
    assert begun["serverInfo"]["name"] == "kerneljudge"


async def test_over_stdio_every_tool_answers(serve):
    evaluator = ScriptedEvaluator(steps=STEPS)
    told: list[float] = []

    async def progress(done, _total, _message):
        told.append(done)
        evaluator.step()

    async with serve(evaluator) as serving, serving.stdio() as client:
        answer = await call(client, "compare_kernels", TWO, progress_callback=progress)
        evaluator.step(20)
        assert (await call(client, "evaluate_kernel", ALONE))["verdict"] == "accepted"
        assert (await call(client, "validate_kernel", ALONE))["validated"] is True
        job = await call(client, "get_job_status", {"job_id": answer["job_id"]})
        assert job["result"] == answer
        assert (await call(client, "get_job_status", {"job_id": "x"}))["status"] == "not_found"
        assert (await call(client, "get_server_stats", {}))["job_stats"]["total_jobs"] == 3
        assert fields(await refused(client, "validate_kernel", {})) == [
            "kernel_source",
            "kernel_type",
        ]
        assert (await client.list_resources()).resources
    assert told == sorted(set(told))
    assert told[-1] == 6


async def test_over_stdio_a_server_that_cannot_be_reached_is_told_to_the_model(private):
    async with private("--url", "http://127.0.0.1:9") as client:
        answer = await refused(client, "validate_kernel", ALONE)
        assert "127.0.0.1:9" in answer["error"]
        assert (await client.list_tools()).tools
