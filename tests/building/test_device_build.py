"""Device code to cubins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kerneljudge.building import BuildResult, DeviceBuild, Toolchain, build
from kerneljudge.building.symbols import base_name, kernels

pytestmark = [pytest.mark.integration, pytest.mark.cuda]

SCALE = """
template <typename T>
__global__ void scale(T* x, T factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}
"""
ADD = "__global__ void add(const float* a, const float* b, float* c) { c[0] = a[0] + b[0]; }\n"


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    found = Toolchain.detect()
    if found.missing_for_nvrtc():
        pytest.skip(f"this machine lacks {', '.join(found.missing_for_nvrtc())}")
    return found


def compile_source(source: str, toolchain: Toolchain, scratch: Path, **fields: Any) -> BuildResult:
    request = DeviceBuild(source=source, architecture="sm_90", **fields)
    return build(request, scratch=scratch, toolchain=toolchain, include_cache=scratch)


def test_the_first_kernel_is_the_entry_and_every_kernel_is_listed(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    source = ADD + "__device__ float f(float x) { return x; }\n" + ADD.replace("add", "other")
    result = compile_source(source, toolchain, tmp_path)
    assert result.ok, result.log
    assert result.way == "nvrtc"
    assert result.manifest["kernel_name"] == "add"
    assert result.manifest["kernels"].keys() == {"add", "other"}
    cubin = result.artefacts["cubin"].read_bytes()
    assert result.manifest["entry"] in kernels(cubin)
    assert base_name(result.manifest["entry"]) == "add"
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kernel_name": "scale<float>"}, "scale<float>"),
        ({"kernel_name": "scale<double>", "name_expressions": ["scale<float>"]}, "scale<double>"),
        ({"kernel_name": "scale", "name_expressions": ["scale<float>"]}, "scale<float>"),
        ({"name_expressions": ["scale<int>"]}, "scale<int>"),
    ],
)
@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_template_instances_are_found_by_name(
    toolchain: Toolchain, tmp_path: Path, compiler: str, fields: dict[str, Any], name: str
) -> None:
    if compiler == "nvcc" and toolchain.missing_for_nvcc():
        pytest.skip("no nvcc")
    result = compile_source(SCALE, toolchain, tmp_path, compiler=compiler, **fields)
    assert result.ok, result.log
    assert result.manifest["kernel_name"] == name
    assert base_name(result.manifest["entry"]) == name
    assert result.way == compiler


def test_kernels_in_namespaces_and_with_internal_linkage_are_found_by_their_own_name(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    source = "namespace a { namespace {\n" + ADD + "} }\nstatic " + ADD.replace("add", "other")
    result = compile_source(source, toolchain, tmp_path, kernel_name="add")
    assert result.ok, result.log
    assert base_name(result.manifest["entry"]) == "a::add"


@pytest.mark.parametrize(
    "header",
    [
        *("cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h", "mma.h", "cooperative_groups.h"),
        *("cuda/std/limits", "cuda/pipeline", "cub/block/block_reduce.cuh", "cub/cub.cuh"),
        *("cuda_runtime.h", "cuda.h", "stdio.h", "math.h", "cstdint", "vector", "iostream"),
        *("cmath", "limits", "torch/extension.h", "assert.h", "curand_kernel.h"),
    ],
)
def test_headers_that_kernels_include_are_found_or_of_no_need(
    toolchain: Toolchain, tmp_path: Path, header: str
) -> None:
    if header == "curand_kernel.h" and not toolchain.has_header(header):
        pytest.skip("cuRAND is not installed")
    needs_cccl = header.startswith(("cooperative", "cuda/", "cub/"))
    if needs_cccl and not any(found.cccl for found in toolchain.headers):
        pytest.skip("CCCL is not installed")
    result = compile_source(f"#include <{header}>\n{ADD}", toolchain, tmp_path)
    assert result.ok, result.log


def test_what_the_hosts_headers_define_is_there(toolchain: Toolchain, tmp_path: Path) -> None:
    source = """
    #include <stdint.h>
    #include <math.h>
    #include <float.h>
    __global__ void k(float* x, int64_t n, uint8_t b, size_t s, uint u) {
        static_assert(sizeof(int64_t) == 8 && sizeof(uint16_t) == 2, "");
        constexpr float bound = INFINITY;
        x[0] = std::max(x[1], -FLT_MAX) + M_PI + INT_MAX + NAN + bound + sqrt(3) + std::min(1, 2);
        assert(n > 0);
        printf("%d", INT_MAX);
    }
    """
    result = compile_source(source, toolchain, tmp_path)
    assert result.ok, result.log


def test_host_functions_are_left_out_and_constexpr_ones_are_for_both_sides(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    source = (
        "constexpr int twice(int n) { return 2 * n; }\n"
        "#include <vector>\nvoid launch(std::vector<float> v) { throw 1; }\n"
        "__global__ void k(int* x) { x[0] = twice(x[1]); }\n"
    )
    result = compile_source(source, toolchain, tmp_path)
    assert result.ok, result.log


def test_errors_have_the_lines_of_the_source(toolchain: Toolchain, tmp_path: Path) -> None:
    result = compile_source("\n\n" + ADD.replace("a[0]", "missing"), toolchain, tmp_path)
    assert not result.ok
    assert result.fault == "compile_error"
    assert 'source(3): error: identifier "missing" is undefined' in result.log


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ("void f() {}", {}, "No __global__ functions found"),
        (SCALE, {}, "'scale' is a template"),
        (ADD, {"kernel_name": "sub"}, "'sub' is not defined"),
        (ADD, {"kernel_name": "add", "name_expressions": ["1 + 2"]}, "'1 + 2' is no name"),
        (ADD, {"options": ["--made-up"]}, "option '--made-up'"),
        (ADD, {"options": ["-o", "/tmp/x"]}, "option '-o'"),
        (ADD, {"options": ["-rdc=true"]}, "option '-rdc=true'"),
        (ADD, {"options": ["-arch=sm_80"]}, "option '-arch=sm_80'"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    toolchain: Toolchain, tmp_path: Path, source: str, fields: dict[str, Any], message: str
) -> None:
    result = compile_source(source, toolchain, tmp_path, **fields)
    assert not result.ok
    assert result.fault == "compile_error"
    assert message in result.log


def test_a_missing_kernel_is_answered_with_those_that_there_are(
    toolchain: Toolchain, tmp_path: Path
) -> None:
    result = compile_source(ADD + SCALE, toolchain, tmp_path, kernel_name="sub")
    assert result.hint == "The source defines add, scale."


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_options_reach_the_compiler(toolchain: Toolchain, tmp_path: Path, compiler: str) -> None:
    if compiler == "nvcc" and toolchain.missing_for_nvcc():
        pytest.skip("no nvcc")
    source = "#if WIDTH != 4\n#error no\n#endif\n" + ADD
    assert not compile_source(source, toolchain, tmp_path, compiler=compiler).ok
    result = compile_source(
        source,
        toolchain,
        tmp_path,
        compiler=compiler,
        options=["-DWIDTH=4", "--use_fast_math", "-std=c++17", "-lineinfo", "-arch=sm_90a"],
    )
    assert result.ok, result.log
    assert result.manifest["architecture"] == "sm_90a"


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_a_missing_compiler_is_no_fault_of_the_source(tmp_path: Path, compiler: str) -> None:
    result = compile_source(ADD, Toolchain(), tmp_path, compiler=compiler)
    assert not result.ok
    assert result.fault == "unavailable"
    assert ("NVRTC" if compiler == "nvrtc" else "nvcc") in result.log


def test_nvcc_executes_nothing_in_options(toolchain: Toolchain, tmp_path: Path) -> None:
    if toolchain.missing_for_nvcc():
        pytest.skip("no nvcc")
    mark = tmp_path / "executed"
    for option in (f"-DX=$(touch {mark})", f"-DX=`touch {mark}`", f"-Xptxas='; touch {mark}; '"):
        result = compile_source(ADD, toolchain, tmp_path, compiler="nvcc", options=[option])
        assert not result.ok
    assert not mark.exists()
