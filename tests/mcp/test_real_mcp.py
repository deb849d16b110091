"""The tools against the real judge: through the HTTP server, and through a private one."""

from __future__ import annotations

import json
import os

import anyio
import pytest
from mcp import Client
from processes import alive, command_lines, descendants

from kerneljudge.api.mcp.examples import calls
from kerneljudge.schema import KernelType

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(180)]

WRONG = "def add(x, y):\n    return x - y\n"


async def judged(client, tool, arguments):
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content[0].text
    return result.structured_content


async def check_all_tools(client):
    """Each tool does what it says, on whatever device there is."""
    torch, multi_kernel = (calls(one) for one in (KernelType.TORCH, KernelType.MULTI_KERNEL))
    validated = await judged(client, "validate_kernel", torch["validate_kernel"])
    assert validated["validated"] is True
    assert validated["compilation_time"] >= 0

    evaluated = await judged(
        client, "evaluate_kernel", {**torch["validate_kernel"], "num_trials": 5, "num_warmup": 2}
    )
    assert evaluated["verdict"] == "accepted"
    assert (evaluated["clock"]["samples"], evaluated["clock"]["warmup"]) == (5, 2)
    assert evaluated["speedup"] is None

    compared = await judged(client, "compare_kernels", multi_kernel["compare_kernels"])
    assert compared["verdict"] == "accepted", compared
    assert compared["speedup"] > 0
    assert compared["tolerances"]["atol"] == compared["tolerances"]["rtol"] == 1e-5

    wrong = await judged(
        client, "evaluate_kernel", torch["evaluate_kernel"] | {"kernel_source": WRONG}
    )
    assert wrong["verdict"] == "wrong_answer"
    assert wrong["correctness"] is False
    assert "trials passed" in wrong["validation_error"]
    assert wrong["tolerances"]["atol"] == 1e-8
    allowed = torch["evaluate_kernel"] | {
        "kernel_source": "def add(x, y):\n    return x + y + 0.5\n",
        "atol": 0.6,
    }
    assert (await judged(client, "evaluate_kernel", allowed))["verdict"] == "accepted"

    broken = await judged(
        client,
        "validate_kernel",
        torch["validate_kernel"] | {"kernel_source": "def add(x, y:\n"},
    )
    assert broken["compiled"] is False
    assert broken["compilation_error"]

    status = await judged(client, "get_job_status", {"job_id": compared["job_id"]})
    assert status["result"] == compared
    stats = await judged(client, "get_server_stats", {})
    assert stats["status"] == "healthy"
    assert stats["job_stats"]["by_status"]["completed"] >= 6
    return stats


async def test_over_http_every_tool_works(cpu_server):
    async with Client(f"{cpu_server.url}/mcp") as client:
        stats = await check_all_tools(client)
    assert stats["gpu_available"] is False
    assert stats["gpu_info"] == []


async def test_over_stdio_a_private_server_is_started_and_ended(private, monkeypatch):
    monkeypatch.setenv("KERNELJUDGE_DEVICES", "cpu")
    monkeypatch.delenv("KERNELJUDGE_URL", raising=False)
    async with private() as client:
        # At once, while the server still starts.
        assert len((await client.list_tools()).tools) == 5
        await check_all_tools(client)
        started = descendants(os.getpid())
        servers = {pid for pid, line in command_lines(started).items() if "--until-eof" in line}
        assert servers
    while any(alive(pid) for pid in servers):
        await anyio.sleep(0.05)


async def test_over_stdio_a_private_server_that_does_not_start_is_told_to_the_model(
    private, monkeypatch
):
    monkeypatch.setenv("KERNELJUDGE_DEVICES", "abacus")
    monkeypatch.delenv("KERNELJUDGE_URL", raising=False)
    async with private() as client:
        result = await client.call_tool("get_server_stats", {})
    assert result.is_error
    assert "abacus" in json.dumps(result.structured_content)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel_type", list(KernelType))
async def test_every_kernel_type_is_judged_on_a_gpu(gpu_server, kernel_type):
    async with Client(f"{gpu_server.url}/mcp") as client:
        for tool, arguments in calls(kernel_type).items():
            answer = await judged(client, tool, arguments)
            assert answer["verdict"] == "accepted", answer
        stats = await judged(client, "get_server_stats", {})
    (gpu, *_) = stats["gpu_info"]
    assert gpu["memory_unavailable"] is None
    assert 0 < gpu["memory_allocated_mb"] < gpu["memory_total_mb"]
    assert gpu["memory_reserved_mb"] is not None
