"""`cuda` kernels: what is built, how it is launched, and where it cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_runs import argument, load

from kerneljudge import building
from kerneljudge.building import BuildResult
from kerneljudge.languages import LANGUAGES, LoadError, Refusal, Unsupported
from kerneljudge.schema import KernelCode, KernelType

ADD = """
__global__ void add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
__global__ void fill(float* out) {
    out[blockIdx.x] = blockDim.x + 1000.0f * blockDim.y + 100000.0f * blockDim.z;
}
"""


def tensor(name: str, size: int = 1000, role: str = "input") -> dict[str, Any]:
    spec: dict[str, Any] = {"shape": [size], "dtype": "float32"}
    if role != "output":
        spec["init"] = {"kind": "randn", "seed": sum(name.encode())}
    return {"name": name, "type": "tensor", "role": role, "tensor_spec": spec}


def scalar(name: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type(value).__name__, "value": value} | more


ADD_ARGS = (tensor("a"), tensor("b"), tensor("c", role="output"), scalar("n", 990))


def cuda_kernel(
    source: str, *args: dict[str, Any], launch: dict[str, Any] | None = None, **metadata: Any
) -> KernelCode:
    return KernelCode.model_validate(
        {
            "source_code": source,
            "kernel_type": "cuda",
            "io": {"args": list(args), "launch": {"grid": {"x": 4}} | (launch or {})},
            "metadata": metadata,
        }
    )


def build(kernel: KernelCode, scratch: Path, architecture: str) -> list[BuildResult]:
    """What builders make of the kernel's builds."""
    scratch.mkdir(parents=True, exist_ok=True)
    toolchain = building.Toolchain.detect()
    return [
        building.build(request, scratch=scratch, toolchain=toolchain, include_cache=scratch)
        for request in LANGUAGES[KernelType.CUDA].builds(kernel, architecture)
    ]


@pytest.mark.unit
def test_one_cubin_is_built_as_the_metadata_says() -> None:
    kernel = cuda_kernel(
        ADD,
        kernel_name="scale<float>",
        compiler_options=["--use_fast_math"],
        backend="nvcc",
        name_expressions=["scale<double>"],
    )
    (request,) = LANGUAGES[KernelType.CUDA].builds(kernel, "sm_90")
    assert request.kind == "device"
    assert request.model_dump(exclude={"kind"}) == {
        "source": ADD,
        "architecture": "sm_90",
        "compiler": "nvcc",
        "options": ["--use_fast_math"],
        "kernel_name": "scale<float>",
        "name_expressions": ["scale<double>"],
    }


@pytest.mark.unit
def test_a_contract_without_a_grid_is_refused() -> None:
    kernel = cuda_kernel(ADD, *ADD_ARGS)
    assert kernel.io is not None
    kernel.io.launch = None
    with pytest.raises(Refusal, match=r"launch\.grid is required for cuda") as caught:
        LANGUAGES[KernelType.CUDA].read(kernel, "candidate")
    assert caught.value.hint


@pytest.mark.integration
@pytest.mark.cuda
def test_a_cpu_compiles_and_says_that_it_cannot_run(tmp_path: Path) -> None:
    kernel = cuda_kernel(ADD, *ADD_ARGS)
    built = build(kernel, tmp_path / "build", "sm_90")
    assert built[0].ok, built[0].log
    with pytest.raises(Unsupported) as caught:
        load(kernel, tmp_path, built=built)
    assert caught.value.message == "compiled to a cubin for sm_90; this device (cpu) cannot run it"
    assert caught.value.hint


@pytest.mark.unit
def test_a_failed_build_is_told_with_its_log(tmp_path: Path) -> None:
    failed = BuildResult(ok=False, way="nvrtc", log="line 3: expected a ;", hint="add it")
    with pytest.raises(LoadError) as caught:
        load(cuda_kernel(ADD, *ADD_ARGS), tmp_path, built=[failed])
    assert caught.value.message == "line 3: expected a ;"
    assert caught.value.hint == "add it"


@pytest.mark.gpu
@pytest.mark.cuda
class TestLaunched:
    """Whole kernels on a GPU."""

    def load(self, kernel: KernelCode, scratch: Path) -> Any:
        major, minor = torch.cuda.get_device_capability(0)
        built = build(kernel, scratch / "build", f"sm_{major}{minor}")
        assert built[0].ok, built[0].log
        return load(kernel, scratch, device="cuda:0", built=built)

    def run(self, kernel: KernelCode, scratch: Path) -> list[Any]:
        loaded = self.load(kernel, scratch)
        assert kernel.io is not None
        values = [argument(spec, index, "cuda:0") for index, spec in enumerate(kernel.io.args)]
        assert loaded(values) is None
        torch.cuda.synchronize()
        return values

    def test_the_first_kernel_is_launched_with_256_threads(self, tmp_path: Path) -> None:
        a, b, c, _ = self.run(cuda_kernel(ADD, *ADD_ARGS), tmp_path)
        assert torch.equal(c[:990], (a + b)[:990])
        assert torch.equal(c[990:], torch.full_like(c[990:], 777))

    def test_the_named_kernel_is_launched_with_its_block(self, tmp_path: Path) -> None:
        launch = {"grid": {"x": 3}, "block": {"x": 8, "y": 4, "z": 2}}
        kernel = cuda_kernel(ADD, tensor("out", 3, "output"), launch=launch, kernel_name="fill")
        assert self.run(kernel, tmp_path)[0].tolist() == [204008.0] * 3

    def test_a_template_instance_is_launched(self, tmp_path: Path) -> None:
        source = """
template <typename T, int N> __global__ void scale(T* x, T factor) {
    x[threadIdx.x] *= factor * N;
}
"""
        kernel = cuda_kernel(
            source,
            tensor("x", 4, "inout"),
            scalar("factor", 3.0),
            launch={"grid": {"x": 1}, "block": {"x": 4}},
            kernel_name="scale<float, 2>",
        )
        loaded = self.load(kernel, tmp_path)
        x = torch.ones(4, device="cuda:0")
        loaded([x, 3.0])
        assert x.tolist() == [6.0] * 4

    def test_every_scalar_arrives_in_its_width(self, tmp_path: Path) -> None:
        source = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
__global__ void take(double* out, signed char c, short s, int i, long long l, unsigned u,
                     size_t z, __half h, __nv_bfloat16 b, float f, double d, bool t) {
    double all[] = {(double)c, (double)s, (double)i, (double)l, (double)u, (double)z,
                    (double)__half2float(h), (double)__bfloat162float(b), (double)f, d, (double)t};
    for (int k = 0; k < 11; ++k) out[k] = all[k];
}
"""
        values: list[Any] = [
            *(-7, -300, -70000, -(2**40), 2**32 - 1, 2**40),
            *(0.5, 3.0, 0.25, 1e300),
            True,
        ]
        out = tensor("out", 11, "output")
        out["tensor_spec"]["dtype"] = "float64"
        args = [scalar(f"v{index}", value) for index, value in enumerate(values)]
        launch = {"grid": {"x": 1}, "block": {"x": 1}}
        done = self.run(cuda_kernel(source, out, *args, launch=launch), tmp_path)
        assert done[0].tolist() == [float(value) for value in values]

    def test_meta_arguments_are_not_passed(self, tmp_path: Path) -> None:
        args = (scalar("TILE", 16, is_meta=True), *ADD_ARGS)
        _, a, b, c, _ = self.run(cuda_kernel(ADD, *args), tmp_path)
        assert torch.equal(c[:990], (a + b)[:990])

    @pytest.mark.parametrize("size", [1024, 48 * 1024, 100 * 1024])
    def test_dynamic_shared_memory_is_given(self, tmp_path: Path, size: int) -> None:
        source = """
__global__ void reverse(const float* x, float* y, int n) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) tile[n - 1 - i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = tile[i];
}
"""
        count = size // 4
        kernel = cuda_kernel(
            source,
            tensor("x", count),
            tensor("y", count, "output"),
            scalar("n", count),
            launch={"grid": {"x": 1}, "shared_memory": size},
        )
        x, y, _ = self.run(kernel, tmp_path)
        assert torch.equal(y, x.flip(0))

    def test_too_much_shared_memory_names_both_sizes(self, tmp_path: Path) -> None:
        source = """__global__ void k(float* x) {
            __shared__ float s[8192];
            s[threadIdx.x] = *x;
            __syncthreads();
            x[threadIdx.x] = s[8191 - threadIdx.x];
        }"""
        kernel = cuda_kernel(source, tensor("x"), launch={"shared_memory": 227 * 1024})
        limit = torch.cuda.get_device_properties(0).shared_memory_per_block_optin
        with pytest.raises(LoadError) as caught:
            self.load(kernel, tmp_path)
        assert "launch.shared_memory is 232448 bytes" in caught.value.message
        assert f"at most {limit} bytes" in caught.value.message

    def test_a_block_beyond_the_kernels_limit_names_both(self, tmp_path: Path) -> None:
        source = "__global__ void __launch_bounds__(128) k(float* x) { x[threadIdx.x] = 1; }"
        kernel = cuda_kernel(source, tensor("x"), launch={"block": {"x": 256}})
        with pytest.raises(LoadError, match=r"is 256 threads.*at most 128"):
            self.load(kernel, tmp_path)

    def test_a_missing_argument_names_the_parameter(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"Parameter 3 \(`int n`\) of kernel 'add'"):
            self.load(cuda_kernel(ADD, *ADD_ARGS[:3]), tmp_path)

    def test_a_wrong_width_names_argument_and_parameter(self, tmp_path: Path) -> None:
        args = (*ADD_ARGS[:3], scalar("n", 990, dtype="int64"))
        with pytest.raises(LoadError, match=r"Argument 'n' has dtype int64.*parameter 3"):
            self.load(cuda_kernel(ADD, *args), tmp_path)

    def test_a_launch_goes_to_the_current_stream_and_is_captured(self, tmp_path: Path) -> None:
        kernel = cuda_kernel(ADD, *ADD_ARGS)
        loaded = self.load(kernel, tmp_path)
        assert kernel.io is not None
        values = [argument(spec, index, "cuda:0") for index, spec in enumerate(kernel.io.args)]
        loaded(values)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loaded(values)
        values[2].zero_()
        values[0].add_(1)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(values[2][:990], (values[0] + values[1])[:990])

    def test_a_driver_error_has_cudas_name_and_text(self, tmp_path: Path) -> None:
        loaded = self.load(cuda_kernel(ADD, *ADD_ARGS), tmp_path)
        loaded._block = (1024, 1024, 1)  # what no contract lets through
        x = torch.zeros(1000, device="cuda:0")
        with pytest.raises(RuntimeError, match=r"CUDA_ERROR_INVALID_VALUE: .*launching add"):
            loaded([x, x, x, 5])
