"""Code written for `kernel_eval_client` runs as it is, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kernel_eval_client import (
    IOContractBuilder,
    KernelCode,
    KernelEvalClient,
    RuntimeStats,
    create_randn_spec,
    load_from_file,
    save_to_file,
    to_json,
)
from kerneljudge.client import KernelJudgeError

pytestmark = pytest.mark.e2e

MODEL = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2


def get_inputs():
    return [torch.randn(32, 8)]
"""
KERNEL = {"source_code": MODEL, "kernel_type": "torch"}

TRITON = """
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, z_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    x = tl.load(x_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + tl.load(y_ptr + offsets, mask=mask), mask=mask)
"""

# Each as the manual for that client has it, but for what is imported from where.
SNIPPETS = {
    "uniform": """
from kernel_eval_client import create_uniform_spec

tensor_spec = create_uniform_spec(
    shape=[1024],
    dtype="float32",
    seed=42,         # Optional: for reproducibility
    low=0.0,         # Optional: default 0.0
    high=1.0         # Optional: default 1.0
)
""",
    "generated": """
from kernel_eval_client.specs import create_arange_spec, create_full_spec, create_ones_spec
from kernel_eval_client.specs import create_zeros_spec

tensor_spec = create_zeros_spec(shape=[1024, 512], dtype="float32")
tensor_spec = create_ones_spec(shape=[1024, 512], dtype="float32")
tensor_spec = create_full_spec(
    shape=[1024],
    fill_value=3.14,
    dtype="float32"
)
tensor_spec = create_arange_spec(
    shape=[1024],
    dtype="float32",
    start=0.0,       # Optional: default 0.0
    step=1.0         # Optional: default 1.0
)
""",
    "basic": """
from kernel_eval_client.builder import IOContractBuilder
from kernel_eval_client.specs import create_randn_spec

contract = (
    IOContractBuilder()
    .add_input_tensor("x", create_randn_spec([1024], seed=42))
    .add_output_tensor("y", shape=[1024], dtype="float32")
    .build()
)
""",
    "complex": """
from kernel_eval_client import IOContractBuilder, create_randn_spec, create_uniform_spec
from kernel_eval_client.models import LaunchConfig, LaunchDim

contract = (
    IOContractBuilder()
    # Input tensors
    .add_input_tensor("x", create_randn_spec([1024, 512], dtype="float32", seed=42))
    .add_input_tensor("weights", create_uniform_spec([512, 256], seed=43, low=-0.5, high=0.5))

    # Output tensor
    .add_output_tensor("result", shape=[1024, 256], dtype="float32")

    # Scalar parameters
    .add_scalar("alpha", "float", 2.0)
    .add_scalar("n_elements", "int", 1024)

    # Meta parameters (Triton constexpr)
    .add_meta_param("BLOCK_SIZE", value=256)
    .add_meta_param("NUM_STAGES", value=2)

    # Launch configuration
    .set_launch_config(
        LaunchConfig(
            grid=LaunchDim(x=4, y=1, z=1),
            num_warps=4,
            num_stages=2
        )
    )

    .build()
)
""",
    "models": """
from kernel_eval_client import ArgSpec, IOContract, LaunchConfig, LaunchDim, TensorSpec

io_contract = IOContract(
    args=[
        ArgSpec(name="x", type="tensor", tensor_spec=TensorSpec(shape=[1024], dtype="float32")),
        ArgSpec(name="y", type="tensor", role="output",
                tensor_spec=TensorSpec(shape=[1024], dtype="float32")),
        ArgSpec(name="BLOCK_SIZE", type="int", value=128, is_meta=True)
    ],
    launch=LaunchConfig(
        grid=LaunchDim(x=8),
        num_warps=4,
        num_stages=2
    )
)
""",
    "workflow": """
from kernel_eval_client import (
    IOContractBuilder,
    create_randn_spec,
    create_zeros_spec,
    to_json
)
from kernel_eval_client import LaunchConfig, LaunchDim, KernelCode

# Build IOContract using helpers
io_contract = (
    IOContractBuilder()
    .add_input_tensor("x_ptr", create_randn_spec([4096], dtype="float32", seed=42))
    .add_input_tensor("y_ptr", create_randn_spec([4096], dtype="float32", seed=43))
    .add_output_tensor("z_ptr", shape=[4096], dtype="float32")
    .add_scalar("n_elements", "int", 4096)
    .add_meta_param("BLOCK_SIZE", value=256)
    .set_launch_config(
        LaunchConfig(
            grid=LaunchDim(x=16),  # 4096 / 256 = 16 blocks
            num_warps=4
        )
    )
    .build()
)

# Create kernel code
kernel_code = KernelCode(
    source_code=triton_kernel_source,
    kernel_type="triton",
    io=io_contract
)

# Serialize for API request
request_json = to_json({
    "kernel": kernel_code.dict(),
    "num_trials": 100
}, pretty=True)
""",
}  # fmt: skip


@pytest.fixture
def client(cpu_server: Any) -> Iterator[KernelEvalClient]:
    with KernelEvalClient(base_url=cpu_server.url, timeout=120) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(SNIPPETS))
@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")
def test_the_manual_s_snippets_run(name: str, cpu_server: Any) -> None:
    namespace: dict[str, Any] = {"triton_kernel_source": TRITON}
    exec(compile(SNIPPETS[name], name, "exec"), namespace)
    if name == "workflow":
        with KernelEvalClient(cpu_server.url) as client:
            result = client.evaluate(namespace["kernel_code"], num_trials=5)
        assert result["kernel_exec_result"]["correctness"] is True
        answer = httpx.post(
            f"{cpu_server.url}/evaluate",
            content=namespace["request_json"],
            timeout=100,
            trust_env=False,
        )
        assert answer.json()["status"] == "success", answer.text


def test_results_are_dicts_whose_statistics_are_read_either_way(client: KernelEvalClient) -> None:
    candidate = KernelCode(source_code=MODEL.replace("Model(", "ModelNew("), kernel_type="torch")
    result = client.compare(ref_kernel=KERNEL, custom_kernel=candidate, num_trials=5)
    assert type(result) is dict
    executed = result["kernel_exec_result"]
    assert type(executed) is dict
    assert (executed["compiled"], executed["correctness"]) == (True, True)
    assert executed["runtime"] == executed["runtime_stats"].mean
    for stats in (executed["runtime_stats"], result["ref_runtime"]):
        assert isinstance(stats, RuntimeStats)
        assert stats["percentile_95"] == stats.percentile_95
        assert stats.min <= stats.median <= stats.max
    assert result["status"] == "success"
    assert client.evaluate(KERNEL, 5, 60)["kernel_exec_result"]["runtime_stats"].mean > 0


def test_a_kernel_that_fails_is_a_result_and_what_is_none_raises(client: KernelEvalClient) -> None:
    failed = client.evaluate({"source_code": "import nothing_at_all", "kernel_type": "torch"})
    executed = failed["kernel_exec_result"]
    assert executed["compiled"] is False
    assert "nothing_at_all" in executed["compilation_error"]
    assert executed["runtime_stats"] is None
    with pytest.raises(KernelJudgeError) as raised:
        client.evaluate({"source_code": TRITON, "kernel_type": "triton"})
    assert raised.value.status_code == 400
    endless = MODEL.replace("return x * 2", "\n        while True: pass")
    with pytest.raises(KernelJudgeError, match="timeout") as raised:
        client.evaluate({**KERNEL, "source_code": endless}, timeout=5)
    assert raised.value.status_code == 500


def test_the_server_is_asked_as_before(client: KernelEvalClient) -> None:
    assert client.health_check()["status"] == "healthy"
    job_id = client.evaluate(KERNEL, num_trials=3)["job_id"]
    job = client.get_job_status(job_id)
    assert (job["job_id"], job["status"]) == (job_id, "completed")
    assert client.get_stats()["job_stats"]["total_jobs"] >= 1
    assert client.cleanup_jobs()["status"] == "cleanup_completed"
    with pytest.raises(KernelJudgeError):
        client.get_job_status("unknown")


def test_contracts_are_saved_and_loaded(tmp_path: Path) -> None:
    contract = IOContractBuilder().add_input_tensor("x", create_randn_spec([4], seed=1)).build()
    save_to_file(contract, tmp_path / "my_contract.json", pretty=True)
    assert load_from_file(str(tmp_path / "my_contract.json"), obj_type="IOContract") == contract
    assert re.sub(r"\s", "", to_json(contract, pretty=True)) == re.sub(r"\s", "", to_json(contract))


def test_the_defaults_are_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELJUDGE_URL", raising=False)
    client = KernelEvalClient()
    assert (client.base_url, client.timeout) == ("http://localhost:8000", 120)
    client.close()
