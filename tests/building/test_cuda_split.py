"""How CUDA sources are split into their halves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.building.cuda_source import Joined, SplitSource, Unfaithful, only_declares, split
from kerneljudge.building.lexer import code_only, tokens

pytestmark = pytest.mark.unit


def halves(source: str) -> SplitSource:
    return split(Joined((("source", source),)))


def reason(source: str) -> str:
    with pytest.raises(Unfaithful) as error:
        halves(source)
    return str(error.value)


KERNEL = "__global__ void k(float* x, int n) { x[0] = n; }\n"


def test_each_half_has_what_is_its_own() -> None:
    found = halves(
        "__device__ float on_device(float x) { return x; }\n"
        + KERNEL
        + "torch::Tensor on_host(torch::Tensor x) { return x; }\n"
        "constexpr int on_both(int n) { return n; }\n"
    )
    assert "on_device" in found.device
    assert "on_device" not in found.host
    assert "on_host" in found.host
    assert "on_host" not in found.device
    assert "on_both" in found.host
    assert "on_both" in found.device
    assert "x[0] = n" in found.device
    assert "x[0] = n" not in found.host
    assert found.defined == {"on_host", "on_both"}


def test_both_halves_have_the_lines_of_the_source() -> None:
    source = (
        "#include <torch/extension.h>\n"
        "__global__ void k(\n    float* x,\n    int n) {\n  x[0] = n;\n}\n"
        "void f(float* x) {\n  k<<<1,\n      2>>>(\n      x, 3);\n}\n"
        "int last = __LINE__;\n"
    )
    found = halves(source)
    for half in (found.device, found.host):
        assert half.splitlines()[0] == '#line 1 "source"'
        assert len(half.splitlines()) - 1 == len(source.splitlines()) + 1
    line = source.splitlines().index("int last = __LINE__;") + 1
    assert found.host.splitlines()[line] == "int last = __LINE__;"


def test_a_launch_becomes_a_call_of_the_stand_in_with_its_configuration() -> None:
    found = halves(KERNEL + "void f(float* x) { k<<<dim3(1, 2), 256, 16, stream>>>(x, 3); }\n")
    call = "(::kerneljudge::Configuration(dim3(1, 2), 256, 16, stream), k(x, 3));"
    assert call in found.host
    assert found.guess == ["k"]


def test_text_in_comments_strings_and_raw_strings_is_not_code() -> None:
    found = halves(
        "// k<<<1, 2>>>(x)\n/* __global__ void other() {} */\n"
        + KERNEL
        + 'const char* a = "<<<1, 2>>>";\nconst char* b = R"(k<<<1>>>("})x)";\n'
        "void f(float* x) { k<<<1, 2>>>(x, 3); }\n"
    )
    assert [kernel.name for kernel in found.kernels] == ["k"]
    assert '"<<<1, 2>>>"' in found.host


def test_kernels_have_the_names_by_which_nvrtc_finds_them() -> None:
    found = halves(
        "namespace a::b {\n" + KERNEL + "}\nnamespace {\nnamespace c {\n" + KERNEL + "}\n}\n"
        "template <typename T> __global__ void t(T* x) {}\n"
        "template <> __global__ void t<int>(int* x) {}\n"
    )
    assert [(kernel.name, kernel.is_template) for kernel in found.kernels] == [
        ("a::b::k", False),
        ("c::k", False),
        ("t", True),
        ("t<int>", False),
    ]


@pytest.mark.parametrize(
    ("launch", "guess"),
    [
        ("t<float, 4><<<1, 2>>>(x);", ["t<float, 4>"]),
        ("t<float, 4><<<1, 2>>>(x); t<double, 8><<<1, 2>>>(y);", ["t<float, 4>", "t<double, 8>"]),
        ("constexpr int N = 4; t<float, N><<<1, 2>>>(x);", None),
        ("t<scalar_t, 4><<<1, 2>>>(x);", None),
        ("t<<<1, 2>>>(x);", None),
        ("auto f = t<float, 4>; f<<<1, 2>>>(x);", None),
    ],
)
def test_instances_are_guessed_only_where_the_text_tells_them(
    launch: str, guess: list[str] | None
) -> None:
    source = "template <typename T, int N> __global__ void t(T* x) {}\n"
    assert halves(source + "void f(float* x, double* y) { " + launch + " }\n").guess == guess


def test_kernels_between_conditions_are_not_guessed() -> None:
    source = "#ifdef X\n" + KERNEL + "#else\n" + KERNEL + "#endif\n"
    found = halves(source + "void f(float* x) { k<<<1, 2>>>(x, 3); }\n")
    assert len(found.kernels) == 2
    assert found.guess is None


def test_functions_of_both_sides_are_for_the_host_only_where_it_uses_them() -> None:
    found = halves(
        "__host__ __device__ int used(int n) { return helper(n); }\n"
        "__host__ __device__ int helper(int n) { return n; }\n"
        "__host__ __device__ float unused(float x) { return __expf(x); }\n"
        "void f() { used(3); }\n"
    )
    assert "helper(int n)" in found.host
    assert "__expf" not in found.host
    assert "__expf" in found.device


def test_methods_of_one_side_have_no_body_in_the_other_half() -> None:
    found = halves(
        "struct F {\n  int n;\n  F(int n) : n(host_only(n)) {}\n"
        "  __device__ float operator()(float x) const { return __ldg(&x); }\n};\n" + KERNEL
    )
    assert "host_only" in found.host
    assert "host_only" not in found.device
    assert "__ldg" in found.device
    assert "__ldg" not in found.host


def test_specifiers_in_macros_count() -> None:
    found = halves(
        "#define INLINE __forceinline__\n#define DEV __device__ INLINE\n"
        "DEV float square(float x) { return x * x; }\n" + KERNEL
    )
    assert "square" in found.device
    assert "square" not in found.host


def test_default_arguments_of_kernels_stay_on_the_stand_in() -> None:
    found = halves("template <int N = 4> __global__ void k(float* x, int n = 3) {}\n")
    assert "template <int N> struct kerneljudge_tag_0 {};" in found.host
    assert "template <int N = 4> void k(float* x, int n = 3) {" in found.host


def test_unnamed_parameters_are_given_names() -> None:
    host = halves("__global__ void k(float*, const int, float* x) {}\n").host
    assert "kerneljudge_0, kerneljudge_1, x)" in host


def test_a_plain_pybind_module_gives_the_bindings() -> None:
    found = halves(
        "int f(int n) { return n; }\n"
        'PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("g", &f, "doc"); m.def("h", f); }\n'
    )
    assert found.bindings == {"g": "f", "h": "f"}
    assert "PYBIND11" not in found.host


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('PYBIND11_MODULE(x, m) { m.def("f", &f, py::arg("n") = 3); }', "PYBIND11_MODULE"),
        ('PYBIND11_MODULE(x, m) { m.attr("n") = 3; }', "PYBIND11_MODULE"),
        ("#define L(k) k<<<1, 2>>>()\n" + KERNEL, "macro L launches"),
        ("#define K(n) __global__ void n() {}\nK(k);\n", "macro K defines"),
        (KERNEL + "void f() { cudaLaunchKernel(k, 1, 2, 0, 0, 0); }", "cudaLaunchKernel"),
        (KERNEL + "void f() { cudaOccupancyMaxPotentialBlockSize(&a, &b, k); }", "cudaOccupancy"),
        ("__constant__ float c[3];\nvoid f() { cudaMemcpyToSymbol(c, p, 12); }", "c"),
        ("__managed__ int n;\n" + KERNEL, "__managed__"),
        ("#ifdef __CUDACC__\n#endif\n" + KERNEL, "__CUDACC__"),
        ("#if TORCH_VERSION_MAJOR >= 2\n#endif\n" + KERNEL, "the macro TORCH_VERSION_MAJOR"),
        ("#ifdef __GNUC__\n#endif\n" + KERNEL, "the macro __GNUC__"),
        ("#define S(k) cudaFuncSetAttribute((void*)k, 8, 1)\n" + KERNEL, "macro S calls CUDA"),
        ("#include <cutlass/gemm/gemm.h>\n" + KERNEL, "CUTLASS"),
        ("#include <ATen/cuda/Atomic.cuh>\n" + KERNEL, "torch's own"),
        ("__global__ void k(at::Half* x) {}", "at::"),
        ("__global__ void k() { std::vector<int> v; }", "std::vector"),
        ("__global__ void k(float* x) { other<<<1, 2>>>(x); }", "device code launches"),
        ("__global__ void k(float& x) {}", "reference"),
        (KERNEL + "__global__ void k(double* x) {}", "overloaded"),
        ("struct S { static __global__ void k() {} };", "inside of a class"),
        ("template <int> __global__ void k() {}", "unnamed template parameter"),
        ("void f() { thrust::sort(a, b); }\n" + KERNEL, "thrust::"),
        ("SOMETHING float f(float x) { return x; }\n" + KERNEL, "could not be read"),
    ],
)
def test_what_cannot_be_split_for_sure_is_left_to_nvcc(source: str, words: str) -> None:
    assert words in reason(source)


def test_conditions_that_both_halves_agree_on_are_kept() -> None:
    found = halves(
        "#ifndef GUARD\n#define GUARD\n#endif\n#if CUDA_VERSION >= 12000 && !defined(USE_ROCM)\n"
        + KERNEL
        + "#elif defined(DEBUG)\n#endif\n"
    )
    assert "#if CUDA_VERSION >= 12000" in found.device
    assert "#if CUDA_VERSION >= 12000" in found.host


def test_prototypes_lose_default_arguments_where_the_definition_follows_in_the_same_unit() -> None:
    only, names, text = only_declares(
        Joined((("cpp", "#include <torch/extension.h>\nint f(int a, int b = 3);\n"),))
    )
    assert only
    assert names == {"f"}
    assert "int f(int a, int b );" in text
    assert not only_declares(Joined((("cpp", "int f() { return 1; }"),)))[0]


def test_several_sources_keep_their_own_lines() -> None:
    joined = Joined((("a", "int x;\n"), ("b", "int y;")))
    assert joined.with_lines(joined.code).splitlines() == [
        '#line 1 "a"',
        "int x;",
        "",
        '#line 1 "b"',
        "int y;",
    ]


_PIECES = st.sampled_from(
    [
        *('"a\\"b"', "'x'", "'\\''", 'R"(a)")"', "// c\n", "/* * */", "/*", "<<<", ">>>", "{", "}"),
        *("name", "1'000", "0x1p-3", "\n", " ", "\\\n", "#define X 1\n", '"open', "é", "("),
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_tokens_cover_any_text_without_gaps(text: str) -> None:
    code = text.encode()
    assert b"".join(token.text for token in tokens(code)) == code
    assert len(code_only(code)) == len(code)
    assert code_only(code).count(b"\n") == code.count(b"\n")


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_any_text_is_split_or_left_to_nvcc(text: str) -> None:
    try:
        found = halves(text)
    except Unfaithful:
        return
    lines = text.count("\n")
    assert found.host.count("\n") - lines == found.device.count("\n") - lines
