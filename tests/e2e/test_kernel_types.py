"""The five kernel types, over HTTP, with real compilers."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pairs import kernel, reference

pytestmark = pytest.mark.e2e

Compare = Callable[..., Any]

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS = sorted(EXAMPLES.glob("*/*request.json"))


def body_of(request: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("examples_body", EXAMPLES / "body.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    body: dict[str, Any] = module.read_body(request)
    return body


def types_of(body: dict[str, Any]) -> set[str]:
    return {
        body[key]["kernel_type"] for key in ("kernel", "ref_kernel", "custom_kernel") if key in body
    }


@pytest.mark.parametrize(
    "request_file", REQUESTS, ids=[str(path.relative_to(EXAMPLES)) for path in REQUESTS]
)
def test_every_example_gets_the_verdict_that_the_device_can_give(
    judge_server: Any, device: str, request_file: Path
) -> None:
    body = body_of(request_file) | {"num_trials": 3}
    path = "/evaluate" if "kernel" in body else "/compare"
    answer = httpx.post(judge_server.url + path, json=body, timeout=600, trust_env=False)
    assert answer.status_code == 200, answer.text
    judged = answer.json()
    expected = {"accepted"}
    if device == "cpu" and types_of(body) & {"cuda", "torch_cuda"}:
        expected = {"unsupported"}
        assert judged["kernel_exec_result"]["compiled"] is False
        assert "cpu" in json.dumps(judged["fault"])
    elif device == "cpu" and "cupy" in json.dumps(body):
        expected = {"compile_error"}
        assert "cupy" in judged["fault"]["message"]
    assert judged["verdict"] in expected, judged["fault"]
    if "accepted" in expected:
        assert judged["kernel_exec_result"]["runtime"] > 0 or judged["candidate"]["runtime"]["mean"]


TENSOR = {"type": "tensor", "tensor_spec": {"shape": [1000]}}


def scale_contract(**launch: Any) -> dict[str, Any]:
    return {
        "args": [
            {"name": "x", **TENSOR},
            {"name": "y", "role": "output", **TENSOR},
            {"name": "factor", "type": "float", "value": 2.5},
            {"name": "n", "type": "int", "value": 1000},
        ],
        "launch": {"grid": {"x": 4}, "block": {"x": 256}, **launch},
    }


SCALE_REFERENCE = reference("return args[0] * 2.5", "[torch.randn(1000)]")
SCALE = """
__device__ float twice(float x) { return x + x; }

__global__ void scale(const float* x, float* y, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * factor;
}

__global__ void wrong(const float* x, float* y, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = twice(x[i]);
}
"""


def cuda(source: str, io: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return kernel(source, "cuda", io=io or scale_contract(), metadata=metadata)


@pytest.mark.parametrize(
    "broken",
    ["__global__ void k(float* x) { x[0] = nothing; }", "__global__ void k(float* x) { x[0] = 1 }"],
)
def test_cuda_that_does_not_compile_says_where(compare: Compare, broken: str) -> None:
    judged = compare(SCALE_REFERENCE, cuda(broken))
    assert judged.verdict == "compile_error"
    assert judged.fault.phase == "build"
    assert "error" in judged.fault.message
    assert judged.kernel_exec_result.compiled is False
    assert "error" in judged.kernel_exec_result.compilation_error


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_cuda_on_a_cpu_compiles_and_says_that_it_cannot_run_here(compare: Compare) -> None:
    judged = compare(SCALE_REFERENCE, cuda(SCALE))
    assert judged.verdict == "unsupported"
    assert judged.candidate.build.way == "nvrtc"
    assert judged.candidate.build.architecture.startswith("sm_")
    assert "cubin" in judged.fault.message


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
class TestCudaOnAGpu:
    @pytest.mark.parametrize("backend", ["nvrtc", "nvcc"])
    def test_both_compilers_make_the_same_kernel(self, compare: Compare, backend: str) -> None:
        judged = compare(SCALE_REFERENCE, cuda(SCALE, backend=backend))
        assert judged.verdict == "accepted", judged.fault
        assert judged.candidate.build.way == backend
        assert judged.candidate.kernel_name == "scale"
        assert judged.candidate.clock.name == "cuda_graph"

    def test_a_kernel_is_chosen_by_name(self, compare: Compare) -> None:
        judged = compare(SCALE_REFERENCE, cuda(SCALE, kernel_name="wrong"))
        assert judged.verdict == "wrong_answer"
        assert judged.candidate.kernel_name == "wrong"

    def test_a_template_is_compiled_for_its_arguments(self, compare: Compare) -> None:
        source = """
        template <typename T, int UNROLL>
        __global__ void scale(const T* x, T* y, float factor, int n) {
            for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] * T(factor);
        }
        """
        judged = compare(
            SCALE_REFERENCE,
            cuda(
                source,
                scale_contract(grid={"x": 1}),
                kernel_name="scale<float, 4>",
                name_expressions=["scale<float, 4>"],
            ),
        )
        assert judged.verdict == "accepted", judged.fault

    def test_compiler_options_reach_the_compiler(self, compare: Compare) -> None:
        source = SCALE.replace("x[i] * factor", "x[i] * FACTOR")
        judged = compare(
            SCALE_REFERENCE, cuda(source, compiler_options=["-DFACTOR=2.5f", "--use_fast_math"])
        )
        assert judged.verdict == "accepted", judged.fault

    def test_dynamic_shared_memory_beyond_48_kib(self, compare: Compare) -> None:
        source = """
        #include <cuda_fp16.h>
        #include <cooperative_groups.h>
        namespace cg = cooperative_groups;

        __global__ void scale(const float* x, float* y, float factor, int n) {
            extern __shared__ float tile[];
            auto block = cg::this_thread_block();
            for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i + 15000] = x[i];
            block.sync();
            for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = tile[i + 15000] * factor;
        }
        """
        contract = scale_contract(grid={"x": 1}, shared_memory=64 * 1024)
        assert compare(SCALE_REFERENCE, cuda(source, contract)).verdict == "accepted"

    def test_scalars_are_passed_in_the_width_of_the_parameter(self, compare: Compare) -> None:
        source = """
        __global__ void scale(const float* x, float* y, double factor, long long n) {
            for (long long i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] * factor;
        }
        """
        judged = compare(SCALE_REFERENCE, cuda(source, scale_contract(grid={"x": 1})))
        assert judged.verdict == "accepted", judged.fault

    def test_a_block_beyond_the_kernels_limit_is_told(self, compare: Compare) -> None:
        bounded = "__global__ void __launch_bounds__(64) scale"
        source = SCALE.replace("__global__ void scale", bounded)
        judged = compare(SCALE_REFERENCE, cuda(source))
        assert judged.verdict == "compile_error"
        assert "256 threads" in judged.fault.message
        assert "at most 64" in judged.fault.message


TORCH_CUDA = """
import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

cuda_source = '''
#include <torch/extension.h>
#include <cuda_runtime.h>

__global__ void scale_kernel(const float* x, float* y, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;  // MARK
    if (i < n) y[i] = x[i] * factor;
}

torch::Tensor scale_cuda(torch::Tensor x, double factor) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    scale_kernel<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), factor, n);
    return y;
}
'''
cpp_source = "torch::Tensor scale_cuda(torch::Tensor x, double factor);"
scale = load_inline(
    name="scale_MARK", cpp_sources=cpp_source, cuda_sources=cuda_source, functions=["scale_cuda"]
)


class ModelNew(nn.Module):
    def forward(self, x):
        return scale.scale_cuda(x, 2.5)
"""


def torch_cuda(source: str = TORCH_CUDA, **metadata: Any) -> dict[str, Any]:
    return kernel(source.replace("MARK", uuid.uuid4().hex), "torch_cuda", metadata=metadata)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
class TestTorchCudaOnAGpu:
    @pytest.mark.parametrize("way", ["fast", "nvcc"])
    def test_both_ways_of_building_give_a_right_kernel(self, compare: Compare, way: str) -> None:
        never_seen = torch_cuda(build=way)
        first = compare(SCALE_REFERENCE, never_seen, timeout=300)
        assert first.verdict == "accepted", first.fault
        assert first.candidate.build.way == way
        assert not first.candidate.build.cached
        again = compare(SCALE_REFERENCE, never_seen, timeout=300)
        assert again.verdict == "accepted", again.fault
        assert again.candidate.build.cached
        # As torch builds it, `<<<>>>` launches on the default stream, which cannot be captured.
        clock = {"fast": "cuda_graph", "nvcc": "cuda_events"}[way]
        assert again.candidate.clock.name == clock
        assert again.reference.clock.name == clock
        assert bool(again.candidate.clock.fallback_reason) == (way == "nvcc")

    def test_dispatch_macros_build_the_fast_way(self, compare: Compare) -> None:
        source = TORCH_CUDA.replace(
            "__global__ void scale_kernel(const float* x, float* y, float factor, int n) {",
            "template <typename T>\n"
            "__global__ void scale_kernel(const T* x, T* y, float factor, int n) {",
        ).replace(
            "    scale_kernel<<<(n + 255) / 256, 256>>>"
            "(x.data_ptr<float>(), y.data_ptr<float>(), factor, n);",
            '    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "scale", [&] {\n'
            "        scale_kernel<scalar_t><<<(n + 255) / 256, 256>>>(\n"
            "            x.data_ptr<scalar_t>(), y.data_ptr<scalar_t>(), factor, n);\n"
            "    });",
        )
        judged = compare(SCALE_REFERENCE, torch_cuda(source), timeout=300)
        assert judged.verdict == "accepted", judged.fault
        assert judged.candidate.build.way == "fast"

    def test_host_calls_of_cub_go_through_nvcc_and_the_result_says_why(
        self, compare: Compare
    ) -> None:
        source = """
import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

cuda_source = '''
#include <torch/extension.h>
#include <cub/cub.cuh>

__global__ void scale_kernel(float* x, float factor) { x[0] *= factor; }

torch::Tensor total_cuda(torch::Tensor x) {
    auto out = torch::empty({1}, x.options());
    size_t bytes = 0;
    int n = x.numel();
    cub::DeviceReduce::Sum(nullptr, bytes, x.data_ptr<float>(), out.data_ptr<float>(), n);
    auto scratch = torch::empty({(long)bytes}, x.options().dtype(torch::kByte));
    cub::DeviceReduce::Sum(
        scratch.data_ptr(), bytes, x.data_ptr<float>(), out.data_ptr<float>(), n);
    scale_kernel<<<1, 1>>>(out.data_ptr<float>(), 1.0f);
    return out;
}
'''
total = load_inline(
    name="total_MARK",
    cpp_sources="torch::Tensor total_cuda(torch::Tensor x);",
    cuda_sources=cuda_source,
    functions=["total_cuda"],
)


class ModelNew(nn.Module):
    def forward(self, x):
        return total.total_cuda(x)
"""
        judged = compare(
            reference("return args[0].sum().reshape(1)", "[torch.rand(1000)]"),
            torch_cuda(source),
            timeout=400,
        )
        assert judged.verdict == "accepted", judged.fault
        assert judged.candidate.build.way == "nvcc"
        assert "cub" in judged.candidate.build.reason.lower()

    def test_a_kernel_with_a_mistake_is_a_compile_error(self, compare: Compare) -> None:
        judged = compare(
            SCALE_REFERENCE, torch_cuda(TORCH_CUDA.replace("* factor;", "* nothing;")), timeout=300
        )
        assert judged.verdict == "compile_error"
        assert "nothing" in (judged.fault.message + (judged.fault.traceback or ""))


@pytest.mark.parametrize(
    ("kernel_type", "source", "says"),
    [
        ("torch_cuda", "import torch\nclass ModelNew: pass", "No load_inline call found"),
        ("triton", "import triton\n\ndef f():\n    pass", "No @triton.jit kernels found"),
        ("torch", "import torch\n\nclass Net: pass", "Class 'Model' not found"),
        ("multi_kernel", "def other(x):\n    return x", "Entry point function 'run' not found"),
        ("cuda", "__device__ float f(float x) { return x; }", "No __global__ functions found"),
    ],
)
def test_common_mistakes_get_the_manuals_message_and_a_hint(
    client: Any, kernel_type: str, source: str, says: str
) -> None:
    io = scale_contract() if kernel_type in ("triton", "cuda", "multi_kernel") else None
    judged = client.evaluate(kernel(source, kernel_type, io=io, metadata={"entry_point": "run"}))
    assert judged.verdict in ("refused", "compile_error")
    assert says in judged.kernel_exec_result.compilation_error
    assert judged.fault.hint
    assert judged.kernel_exec_result.compiled is False


LATE_BUILD = TORCH_CUDA.replace(
    "scale = load_inline(", "scale = None\n\n\ndef build():\n    return load_inline("
).replace(
    "        return scale.scale_cuda(x, 2.5)",
    "        global scale\n"
    "        scale = scale or build()\n"
    "        return scale.scale_cuda(x, 2.5)",
)


def test_an_extension_may_be_built_as_late_as_in_the_first_call(
    compare: Compare, device: str
) -> None:
    judged = compare(SCALE_REFERENCE, torch_cuda(LATE_BUILD), timeout=300)
    assert judged.candidate.build.way == "fast"
    assert judged.verdict == ("accepted" if device == "gpu" else "unsupported"), judged.fault
