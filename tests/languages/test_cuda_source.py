"""The rules of CUDA C++ sources, and what a source says of its kernels' parameters."""

from __future__ import annotations

import pytest

from kerneljudge.languages.base import Refusal
from kerneljudge.languages.cuda_source import CudaSource

pytestmark = pytest.mark.unit

KERNEL = "__global__ void add(float* a, float* b, float* c, int n) { c[n] = a[n] + b[n]; }\n"


def parse(text: str) -> CudaSource:
    source = CudaSource.parse(text)
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import torch  // NO! This is C/C++, not Python\n" + KERNEL,
            "Python code mixed in: line 1: import torch",
        ),
        (KERNEL + "import torch.nn as nn\n", "Python code mixed in: line 2"),
        ("from torch import nn\n" + KERNEL, "Python code mixed in: line 1"),
        (KERNEL + "def run(x, y):\n    return x\n", "Python code mixed in: line 2"),
        (KERNEL + "@triton.jit\n", "Python code mixed in: line 2"),
        (KERNEL + "int main() {\n    return 0;\n}\n", "Don't include main: line 2: int main() {"),
        (KERNEL + 'extern "C" { int main(int c, char** v) { return 0; } }', "Don't include main"),
        (
            KERNEL + "void launch_kernel() {\n    add<<<1, 1>>>();\n}\n",
            "Host code, only kernel code: line 2: void launch_kernel() {",
        ),
        (KERNEL + "int size() { int n; cudaGetDevice(&n); return n; }", "Host code"),
        (KERNEL + "template <int N> void go() { add<<<N, 1>>>(0, 0, 0, 0); }", "Host code"),
        (KERNEL + "struct S { void go() { ::cudaDeviceSynchronize(); } };", "Host code"),
        ("void my_kernel() {\n}\n", "No __global__ functions found"),
        ("__device__ float f(float x) { return x; }\n", "No __global__ functions found"),
        ('// __global__\nvoid f(const char* s = "__global__");\n', "No __global__ functions"),
        ("", "No __global__ functions found"),
    ],
)
def test_unacceptable_sources_are_refused_in_the_manuals_words(text: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse(text).refuse_unless_kernels()
    assert caught.value.message.startswith(words)
    assert len(caught.value.hint) > 20


@pytest.mark.parametrize(
    "text",
    [
        "constexpr int cdiv(int a, int b) { return (a + b - 1) / b; }\n",
        "template <typename T> struct Add { T operator()(T a, T b) const { return a + b; } };\n",
        "inline int plain(int x) { return x + 1; }\n",
        "__host__ __device__ inline float relu(float x) { return x > 0 ? x : 0; }\n",
        "__device__ void parent(float* x) { add<<<1, 1>>>(x, x, x, 0); }\n",
        "#define DEV static __device__ __forceinline__\n"
        "DEV void p(float* x) { add<<<1, 1>>>(x, x, x, 0); }\n",
        "#define A __device__\n#define B A inline\n"
        "B void p(float* x) { add<<<1, 1>>>(x, x, x, 0); }\n",
        "__global__ void __cluster_dims__(2, 1, 1) p(float* x) { add<<<1, 1>>>(x, x, x, 0); }\n",
        "#ifndef __CUDACC_RTC__\n"
        "void host() { add<<<1, 1>>>(0, 0, 0, 0); }\nint main() {}\n#endif\n",
        "namespace detail { __device__ int main(int x) { return x; } }\n",
        "// import torch\n/*\nimport torch\nint main() {}\n*/\n",
        '__device__ const char* text = "\\\nimport torch\\\n";\n',
        '__device__ const char* raw = R"(\nimport torch\n)";\n',
        '__device__ int f() { int r; asm("mov.u32 %0, %%laneid;" : "=r"(r)); return r; }\n',
        "#include <cuda_fp16.h>\n#include <mma.h>\nusing namespace nvcuda;\n",
        "__device__ float cudaLike(float x) { return x; }\n",
    ],
)
def test_honest_sources_are_not_refused(text: str) -> None:
    parse(text + KERNEL).refuse_unless_kernels()


@pytest.mark.parametrize(
    "text",
    [
        '#define KERNEL extern "C" __global__ void\nKERNEL k(float* x) { x[0] = 1; }\n',
        'extern "C" __global__ void __launch_bounds__(128, 2) k(float* x) { x[0] = 1; }\n',
        "template <typename T, int N>\n__global__ void k(T* x) { x[0] = N; }\n",
        "namespace a { namespace { __global__ void k(float* x) { x[0] = 1; } } }\n",
    ],
)
def test_a_kernel_is_found_however_it_is_written(text: str) -> None:
    parse(text).refuse_unless_kernels()


def test_parameters_are_told_by_kind() -> None:
    source = parse(
        "__global__ void k(const float* __restrict__ x, int n, unsigned int m, long long q,"
        " float const a, size_t s, std::int64_t i, half h, __nv_bfloat16 b, bool flag, float4 v,"
        " double d, float y[], T t, int = 3) {}"
    )
    parameters = source.parameters("k", 15)
    assert parameters is not None
    assert [parameter.kind for parameter in parameters] == [
        "pointer",
        *("int", "int", "int"),
        *("float", "int", "int", "float", "float", "bool"),
        None,
        *("float", "pointer"),
        None,
        "int",
    ]
    assert [parameter.bfloat16 for parameter in parameters].index(True) == 8
    assert parameters[0].text == "const float* __restrict__ x"


def test_parameters_of_a_template_instance_are_those_of_the_template() -> None:
    source = parse("namespace a { template <typename T> __global__ void k(T* x, float s) {} }")
    parameters = source.parameters("a::k<float>", 2)
    assert parameters is not None
    assert [parameter.kind for parameter in parameters] == ["pointer", "float"]


def test_ambiguous_parameters_are_not_told() -> None:
    source = parse("__global__ void k(float a) {}\n__global__ void k(int a) {}\n")
    assert source.parameters("k", 1) is None
    assert source.parameters("other", 1) is None
    assert source.parameters("k", 2) is None
