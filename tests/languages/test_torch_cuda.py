"""`torch_cuda`: static rules, and what becomes of `load_inline` and `load` in a runner."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

from kerneljudge.building import (
    BuildRequest,
    BuildResult,
    ExtensionBuild,
    Toolchain,
    build,
    prepare_header,
)
from kerneljudge.languages.base import LoadContext, LoadError, Refusal, Unsupported
from kerneljudge.languages.extensions import BuildError, intercept_extension_builds
from kerneljudge.languages.python_module import execute
from kerneljudge.languages.torch_cuda import TorchCudaLanguage
from kerneljudge.schema import KernelCode, KernelType, Side

LANGUAGE = TorchCudaLanguage()

KERNEL = "__global__ void k(float* x) { x[0] = 1; }"
GOOD = f'''
import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

cuda_source = """
#include <torch/extension.h>
{KERNEL}
torch::Tensor forward(torch::Tensor x) {{ k<<<1, 1>>>(x.data_ptr<float>()); return x; }}
"""
cpp_source = "torch::Tensor forward(torch::Tensor x);"
module = load_inline(
    name="extension", cpp_sources=cpp_source, cuda_sources=cuda_source, functions=["forward"]
)

class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module.forward(x)
'''


def kernel(source: str, **metadata: Any) -> KernelCode:
    return KernelCode(
        source_code=source, kernel_type=KernelType.TORCH_CUDA, metadata=metadata or None
    )


def refusal(source: str, side: Side = "candidate", **metadata: Any) -> Refusal:
    with pytest.raises(Refusal) as error:
        LANGUAGE.read(kernel(source, **metadata), side)
    return error.value


# --- static rules


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GOOD.replace("module = load_inline", "module = dict"), "No load_inline call found"),
        (GOOD.replace("cuda_sources=cuda_source,", ""), "No cuda_sources found"),
        (GOOD.replace("cuda_sources=", "cuda_source="), "No cuda_sources found"),
        (GOOD.replace("cpp_sources=cpp_source,", ""), "No cpp_sources found"),
        (
            GOOD.replace("cuda_sources=cuda_source", "cuda_sources=missing"),
            "Failed to extract CUDA source from variable 'missing'",
        ),
        (GOOD.replace("ModelNew", "Model"), "No ModelNew torch module found"),
        (GOOD.replace("__global__", ""), "No __global__ functions found"),
        (GOOD.replace("import torch\n", "import torch\nimport triton\n", 1), "Mixed with Triton"),
        (GOOD + "\nmodule.forward(torch.randn(10))\n", "execution code"),
        (GOOD + "\nmodel = ModelNew()\n", "Don't instantiate"),
        (GOOD + '\nif __name__ == "__main__":\n    print(1)\n', "Remove test code"),
    ],
)
def test_a_source_that_breaks_a_rule_is_refused_with_the_manuals_message_and_a_hint(
    source: str, message: str
) -> None:
    refused = refusal(source)
    assert message in refused.message
    assert refused.hint


@pytest.mark.unit
def test_a_misspelt_parameter_is_mended_by_the_hint() -> None:
    refused = refusal(GOOD.replace("cuda_sources=", "cuda_source="))
    assert refused.hint == "load_inline has no parameter `cuda_source`: write `cuda_sources`."


@pytest.mark.unit
@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        GOOD.replace(
            "from torch.utils.cpp_extension import load_inline",
            "import torch.utils.cpp_extension as ce",
        ).replace("load_inline(", "ce.load_inline("),
        GOOD.replace("import load_inline", "import load_inline as build").replace(
            "= load_inline(", "= build("
        ),
        GOOD.replace("cuda_sources=cuda_source", 'cuda_sources="#define N 1\\n" + cuda_source'),
        GOOD.replace("cuda_sources=cuda_source", "cuda_sources=[cuda_source, cuda_source]"),
        GOOD.replace("cuda_sources=cuda_source", 'cuda_sources=f"{cuda_source}"'),
        GOOD.replace("name=", "**{}, name="),
        GOOD + "\nother = load_inline('o', cpp_source, cuda_source, functions=['forward'])\n",
        GOOD.replace("cuda_source = ", "for cuda_source in [").replace(
            '"""\ncpp_source', '"""]: pass\ncpp_source'
        ),
        GOOD.replace("__global__ void k", "#include <cub/cub.cuh>\nvoid k"),
        GOOD.replace("class ModelNew(nn.Module)", "class Base(nn.Module)")
        + "\nModelNew = type('ModelNew', (Base,), {})\n",
        "this is (no Python",
    ],
)
def test_what_execution_could_satisfy_is_not_refused(source: str) -> None:
    LANGUAGE.read(kernel(source), "candidate")


@pytest.mark.unit
def test_a_reference_or_a_named_class_need_not_be_called_modelnew() -> None:
    source = GOOD.replace("ModelNew", "Model")
    LANGUAGE.read(kernel(source), "reference")
    LANGUAGE.read(kernel(source, class_name="Model"), "candidate")
    LANGUAGE.read(kernel(source, function_name="f"), "candidate")


# --- load_inline and load, intercepted


@pytest.fixture
def requests() -> list[ExtensionBuild]:
    return []


@pytest.fixture
def context(
    tmp_path: Path, requests: list[ExtensionBuild], monkeypatch: pytest.MonkeyPatch
) -> LoadContext:
    """A runner's, on a CPU, whose builder notes what it is asked for and refuses."""
    # Both are replaced in the process, and put back here.
    monkeypatch.setattr(cpp_extension, "load_inline", cpp_extension.load_inline)
    monkeypatch.setattr(cpp_extension, "load", cpp_extension.load)

    def refuse(request: BuildRequest) -> BuildResult:
        assert isinstance(request, ExtensionBuild)
        requests.append(request)
        return BuildResult(
            ok=False, way="fast", log="error: no", hint="mend it", fault="compile_error"
        )

    return LoadContext(
        device=torch.device("cpu"), side="candidate", seed=7, scratch=tmp_path, build=refuse
    )


@pytest.mark.unit
def test_load_inline_asks_for_what_it_is_given(
    context: LoadContext, requests: list[ExtensionBuild]
) -> None:
    intercept_extension_builds(context, "nvcc")
    with pytest.raises(BuildError, match="error: no") as error:
        cpp_extension.load_inline(
            "name",
            ["int f();", "int g();"],
            KERNEL,
            functions=["f", "g"],
            extra_cflags=["-O3"],
            extra_cuda_cflags=["--use_fast_math"],
            extra_ldflags=["-lcublas"],
            extra_include_paths="/opt/include",
            verbose=True,
            with_cuda=True,
        )
    assert error.value.hint == "mend it"
    assert requests == [
        ExtensionBuild(
            name="name",
            cpp_sources=["int f();", "int g();"],
            cuda_sources=[KERNEL],
            functions={"f": "f", "g": "g"},
            extra_cflags=["-O3"],
            extra_cuda_cflags=["--use_fast_math"],
            extra_ldflags=["-lcublas"],
            extra_include_paths=["/opt/include"],
            architecture="sm_90",
            preference="nvcc",
        )
    ]


@pytest.mark.unit
def test_every_argument_of_torchs_signatures_is_accepted_and_no_other(
    context: LoadContext, requests: list[ExtensionBuild]
) -> None:
    names = inspect.signature(cpp_extension.load_inline).parameters
    intercept_extension_builds(context)
    with pytest.raises(BuildError):
        cpp_extension.load_inline(
            **{"name": "x", "cpp_sources": ""} | dict.fromkeys(set(names) - {"name", "cpp_sources"})
        )
    with pytest.raises(TypeError, match=r"load_inline\(\) got an unexpected .* 'cuda_source'"):
        cpp_extension.load_inline(name="x", cpp_sources="", cuda_source="")
    with pytest.raises(TypeError, match=r"load_inline\(\) missing a required .* 'cpp_sources'"):
        cpp_extension.load_inline(name="x")
    with pytest.raises(ValueError, match="Expected 'functions' to be a list or dict"):
        cpp_extension.load_inline(name="x", cpp_sources="", functions=3)


@pytest.mark.unit
def test_load_sends_the_files_that_the_source_has_written(
    context: LoadContext, requests: list[ExtensionBuild], tmp_path: Path
) -> None:
    folder = tmp_path / "sources"
    (folder / "detail").mkdir(parents=True)
    (folder / "k.cu").write_text(KERNEL)
    (folder / "main.cpp").write_text("int f();")
    (folder / "detail" / "k.cuh").write_text("#pragma once")
    (folder / "notes.txt").write_text("not a header")
    intercept_extension_builds(context)
    with pytest.raises(BuildError):
        cpp_extension.load("name", [str(folder / "k.cu"), str(folder / "main.cpp")])
    (request,) = requests
    assert request.cuda_sources == [KERNEL]
    assert request.cpp_sources == ["int f();"]
    assert request.headers == {"detail/k.cuh": "#pragma once"}
    assert request.separate
    assert not request.implicit_headers
    assert request.functions is None


@pytest.mark.unit
def test_headers_that_the_source_has_written_travel_and_other_folders_are_named(
    context: LoadContext, requests: list[ExtensionBuild], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.h").write_text("A")
    intercept_extension_builds(context)
    with pytest.raises(BuildError):
        cpp_extension.load_inline(
            "name", "", KERNEL, extra_include_paths=[str(tmp_path / "own"), "/opt/include"]
        )
    assert requests[0].headers == {"a.h": "A"}
    assert requests[0].extra_include_paths == ["/opt/include"]


@pytest.mark.unit
def test_a_failed_build_says_so_with_the_compilers_messages(
    context: LoadContext, requests: list[ExtensionBuild]
) -> None:
    with pytest.raises(BuildError) as error:
        LANGUAGE.load(kernel(GOOD, build="fast"), context)
    assert str(error.value) == "extension 'extension' does not compile\nerror: no"
    assert error.value.result.fault == "compile_error"
    assert requests[0].preference == "fast"
    assert isinstance(error.value, LoadError)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("fault", "raised"), [("unavailable", Unsupported), ("out_of_memory", MemoryError)]
)
def test_a_build_that_fails_for_the_machines_sake_is_no_compile_error(
    context: LoadContext, fault: Any, raised: type[Exception]
) -> None:
    context.build = lambda _: BuildResult(ok=False, way="nvcc", log="no nvcc", fault=fault)
    with pytest.raises(raised, match="no nvcc"):
        LANGUAGE.load(kernel(GOOD), context)


# --- built, loaded and called


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    found = Toolchain.detect()
    if missing := found.missing_for_fast():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return found


@pytest.fixture
def real(
    context: LoadContext,
    toolchain: Toolchain,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Callable[[str], Any]]:
    """Executes a source whose extensions are really built; gives its module."""
    cache = pytestconfig.cache
    assert cache is not None
    include_cache = cache.mkdir("kerneljudge-builds") / "include"
    prepare_header(toolchain, include_cache)

    def run(request: BuildRequest) -> BuildResult:
        return build(
            request,
            scratch=tmp_path_factory.mktemp("build"),
            toolchain=toolchain,
            include_cache=include_cache,
        )

    context.build = run
    modules = set(sys.modules)
    intercept_extension_builds(context)
    yield lambda source: execute(source, context)
    for name in set(sys.modules) - modules:
        if name.startswith("kernel_"):
            del sys.modules[name]


@pytest.mark.integration
@pytest.mark.cuda
def test_functions_take_and_give_the_types_of_c_plus_plus(real: Callable[[str], Any]) -> None:
    cpp = r"""
    #include <torch/extension.h>
    torch::Tensor affine(torch::Tensor x, double a) { return x * a + 1; }
    std::vector<int64_t> push(std::vector<int64_t> v, c10::optional<double> d) {
        v.push_back(d.value_or(7)); return v;
    }
    int negate(int8_t n, bool really) { return really ? -n : n; }
    unsigned int same(unsigned int n) { return n; }
    std::string shout(const std::string& text) { return text + "!"; }
    at::Scalar scalar(at::Scalar value) { return value; }
    std::vector<double> size(at::IntArrayRef values) { return {1.0 * values.size()}; }
    torch::Tensor& increment(torch::Tensor& x) { x.add_(1); return x; }
    c10::optional<torch::Tensor> nothing() { return c10::nullopt; }
    torch::Tensor undefined() { return torch::Tensor(); }
    std::tuple<torch::Tensor, int, float> three(const torch::Tensor& x, size_t n) {
        return {x, static_cast<int>(n), 0.5f};
    }
    std::vector<torch::Tensor> both(std::vector<torch::Tensor> xs) { return {xs[1], xs[0]}; }
    void fail(torch::Tensor x) { TORCH_CHECK(false, "not today"); }
    """
    names = [
        *("affine", "push", "negate", "same", "shout", "scalar", "size", "increment", "nothing"),
        *("undefined", "three", "both", "fail"),
    ]
    module = real(
        "from torch.utils.cpp_extension import load_inline\n"
        f"m = load_inline('types', {cpp!r}, functions={names!r}, extra_cflags=['-O3'])\n"
    ).m
    x = torch.ones(2, requires_grad=True)
    y = module.affine(x, 2)
    y.sum().backward()
    assert y.tolist() == [3, 3]
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2]
    assert module.push([1, 2], None) == [1, 2, 7]
    assert module.push((1,), 3) == [1, 3]
    assert module.negate(127, True) == -127
    assert module.same(2**32 - 1) == 2**32 - 1
    assert module.shout("ab") == "ab!"
    assert module.scalar(3) == 3
    assert module.scalar(2.5) == 2.5
    assert module.size([1, 2, 3]) == [3.0]
    z = torch.zeros(1)
    assert module.increment(z) is z
    assert z.item() == 1
    assert module.nothing() is None
    assert module.undefined() is None
    assert module.three(z, 4) == (z, 4, 0.5)
    assert module.both([x, z]) == [z, x]
    for call in (lambda: module.negate(128, True), lambda: module.same(-1)):
        with pytest.raises(TypeError, match="out of range"):
            call()
    with pytest.raises(TypeError, match="expected a Tensor, got None"):
        module.affine(None, 1.0)
    with pytest.raises(RuntimeError, match="not today"):
        module.fail(z)
    with pytest.raises((TypeError, RuntimeError)):
        module.affine(z)
    with pytest.raises(TypeError):
        module.affine(z, a=2.0)  # load_inline names no arguments


@pytest.mark.integration
@pytest.mark.cuda
def test_a_model_is_compiled_and_a_cpu_says_that_it_cannot_run_it(
    context: LoadContext, real: Callable[[str], Any]
) -> None:
    with pytest.raises(Unsupported, match=r"compiled for sm_90 \(fast way: .*\); .* \(cpu\)"):
        LANGUAGE.load(kernel(GOOD), context)
    with pytest.raises(LoadError, match="No ModelNew torch module found"):
        LANGUAGE.load(kernel(GOOD.replace("class ModelNew", "class New")), context)


@pytest.mark.integration
@pytest.mark.cuda
def test_a_launch_without_a_driver_fails_loudly(real: Callable[[str], Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    module = real(GOOD).module
    with pytest.raises(RuntimeError, match="a kernel cannot be launched here"):
        module.forward(torch.zeros(1))


@pytest.mark.integration
@pytest.mark.cuda
def test_the_same_extension_may_be_built_twice_and_several_may_be_loaded(
    real: Callable[[str], Any],
) -> None:
    source = (
        "from torch.utils.cpp_extension import load_inline\n"
        "a = load_inline('a', 'int f(int n) { return n + 1; }', functions=['f'])\n"
        "b = load_inline('b', 'int f(int n) { return n + 2; }', functions={'f': 'adds two'})\n"
        "c = load_inline('a', 'int f(int n) { return n + 1; }', functions='f')\n"
    )
    module = real(source)
    assert [module.a.f(1), module.b.f(1), module.c.f(1)] == [2, 3, 2]
    assert module.b.f.__doc__ == "adds two"


@pytest.mark.integration
@pytest.mark.cuda
def test_operators_that_a_source_registers_itself_are_there(real: Callable[[str], Any]) -> None:
    cpp = (
        "#include <torch/library.h>\n"
        "torch::Tensor twice(torch::Tensor x) { return x * 2; }\n"
        'TORCH_LIBRARY(of_a_test, m) { m.def("twice", twice); }\n'
    )
    real(
        "from torch.utils.cpp_extension import load_inline\n"
        f"load_inline('ops', {cpp!r}, is_python_module=False)\n"
    )
    assert torch.ops.of_a_test.twice(torch.ones(1)).item() == 2
    with pytest.raises(LoadError, match="binds no functions"):
        real(
            "from torch.utils.cpp_extension import load_inline\n"
            "load_inline('none', 'int f() { return 1; }')\n"
        )


@pytest.mark.integration
@pytest.mark.slow
def test_a_module_built_as_torch_builds_it_is_imported(
    context: LoadContext, toolchain: Toolchain, real: Callable[[str], Any]
) -> None:
    if missing := toolchain.missing_for_extension():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    source = (
        "from torch.utils.cpp_extension import load_inline\n"
        "m = load_inline('pybind', 'py::dict f(py::list given) { py::dict d; d[\"n\"] = "
        "given.size(); return d; }', functions=['f'])\n"
    )
    assert real(source).m.f([1, 2]) == {"n": 2}
