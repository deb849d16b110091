"""Extensions of both ways on a GPU: loaded, run, and compared with torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_wrappers import NAMES, Wrapper, wrapper
from torch.utils import cpp_extension

from kerneljudge.building import BuildRequest, BuildResult, ExtensionBuild, Toolchain, build
from kerneljudge.languages.base import LoadContext
from kerneljudge.languages.extensions import intercept_extension_builds
from kerneljudge.languages.torch_cuda import TorchCudaLanguage
from kerneljudge.schema import KernelCode, KernelType

pytestmark = [pytest.mark.gpu, pytest.mark.integration, pytest.mark.slow]

BOTH_WAYS = ["plain", "template_type_and_value", "default_arguments", "many_results"]
BAD_LAUNCHES = """
__global__ void k(float* x) { x[0] = 1; }
void too_many_threads(torch::Tensor x) { k<<<1, 4096>>>(x.data_ptr<float>()); }
void no_blocks(torch::Tensor x) { k<<<0, 32>>>(x.data_ptr<float>()); }
void too_much_memory(torch::Tensor x) { k<<<1, 32, 1 << 30>>>(x.data_ptr<float>()); }
int64_t attribute(int64_t bytes) {
    return cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
"""
MODEL = """
import torch
from torch.utils.cpp_extension import load_inline

module = load_inline("model", "torch::Tensor twice(torch::Tensor x);", r'''
__global__ void k(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2 * x[i];
}
torch::Tensor twice(torch::Tensor x) {
    auto y = torch::empty_like(x);
    k<<<(x.numel() + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), x.numel());
    return y;
}''', functions=["twice"])

class ModelNew(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.linear = torch.nn.Linear(features, features)

    def forward(self, x):
        return module.twice(self.linear(x))

def get_init_inputs():
    return [8]

def get_inputs():
    return [torch.randn(4, 8)]
"""


class Builder:
    """Builds many extensions at once: each test waits for its own."""

    def __init__(self, toolchain: Toolchain, include_cache: Path, folder: Path) -> None:
        self._toolchain = toolchain
        self._include_cache = include_cache
        self._folder = folder
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._jobs: dict[str, Future[BuildResult]] = {}

    def start(self, request: BuildRequest) -> Future[BuildResult]:
        """Begins a build, unless it has begun."""
        key = request.model_dump_json()
        if key not in self._jobs:
            scratch = self._folder / str(len(self._jobs))
            scratch.mkdir()
            self._jobs[key] = self._pool.submit(
                build,
                request,
                scratch=scratch,
                toolchain=self._toolchain,
                include_cache=self._include_cache,
            )
        return self._jobs[key]

    def result(self, request: BuildRequest) -> BuildResult:
        """What a builder would answer a runner."""
        return self.start(request).result()


@pytest.fixture(scope="module")
def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


@pytest.fixture(scope="module")
def builder(
    toolchain: Toolchain,
    include_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
    architecture: str,
) -> Builder:
    """Has begun to build every wrapper."""
    made = Builder(toolchain, include_cache, tmp_path_factory.mktemp("builds"))
    for name in BOTH_WAYS:
        made.start(wrapper(name).request(architecture=architecture, preference="nvcc"))
    for name in sorted(NAMES, key=lambda name: wrapper(name).reason is None):
        made.start(wrapper(name).request(architecture=architecture))
    return made


@pytest.fixture
def load(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[BuildResult, ExtensionBuild], Any]:
    """Loads a result as a runner does."""
    for name in ("load_inline", "load"):
        monkeypatch.setattr(cpp_extension, name, getattr(cpp_extension, name))
    answer: list[BuildResult] = []
    context = LoadContext(
        device=torch.device("cuda", 0),
        side="candidate",
        seed=1,
        scratch=tmp_path,
        build=lambda _: answer[-1],
    )
    torch.zeros(1, device="cuda")  # a runner has its context before it loads
    intercept_extension_builds(context)

    def run(result: BuildResult, request: ExtensionBuild) -> Any:
        assert result.ok, result.log
        answer.append(result)
        functions = None if request.functions is None else list(request.functions)
        return cpp_extension.load_inline(
            request.name, request.cpp_sources, request.cuda_sources, functions=functions
        )

    return run


def bad_launches(architecture: str) -> ExtensionBuild:
    names = ["too_many_threads", "no_blocks", "too_much_memory", "attribute"]
    return ExtensionBuild(
        name="bad",
        architecture=architecture,
        cuda_sources=[BAD_LAUNCHES],
        functions={name: name for name in names},
        preference="fast",
    )


def check(module: Any, given: Wrapper) -> None:
    x = torch.randn(1000, device="cuda").to(getattr(torch, given.dtype))
    for _ in range(2):
        y = getattr(module, given.function)(x)
        torch.testing.assert_close(y, 2 * x + 1)
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", NAMES)
def test_every_wrapper_computes_what_torch_does(
    builder: Builder, load: Callable[..., Any], architecture: str, name: str
) -> None:
    given = wrapper(name)
    request = given.request(architecture=architecture)
    result = builder.result(request)
    module = load(result, request)
    assert result.way == ("fast" if given.reason is None else "nvcc"), result.reason
    check(module, given)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_wrapper_that_nvcc_was_asked_to_build_computes_the_same(
    builder: Builder, load: Callable[..., Any], architecture: str, name: str
) -> None:
    given = wrapper(name)
    request = given.request(architecture=architecture, preference="nvcc")
    result = builder.result(request)
    assert (result.way, result.reason) == ("nvcc", "asked for")
    check(load(result, request), given)


def test_a_launch_without_a_stream_can_be_captured_and_follows_the_current_stream(
    builder: Builder, load: Callable[..., Any], architecture: str
) -> None:
    request = wrapper("several_kernels").request(architecture=architecture)
    module = load(builder.result(request), request)
    x = torch.randn(1000, device="cuda")
    module.forward(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        y = module.forward(x)
    x.copy_(torch.randn(1000, device="cuda"))
    graph.replay()
    torch.testing.assert_close(y, 2 * x + 1)


@pytest.mark.parametrize("function", ["too_many_threads", "no_blocks", "too_much_memory"])
def test_a_launch_that_fails_names_the_kernel_and_cudas_error(
    builder: Builder, load: Callable[..., Any], architecture: str, function: str
) -> None:
    request = bad_launches(architecture)
    module = load(builder.result(request), request)
    x = torch.zeros(1, device="cuda")
    with pytest.raises(RuntimeError, match=r"kernel 'k' failed: CUDA_ERROR_INVALID_VALUE"):
        getattr(module, function)(x)
    torch.cuda.synchronize()
    assert x.item() == 0


def test_an_attribute_that_cannot_be_set_is_answered_with_cudas_error(
    builder: Builder, load: Callable[..., Any], architecture: str
) -> None:
    request = bad_launches(architecture)
    module = load(builder.result(request), request)
    assert module.attribute(64 * 1024) == 0
    assert module.attribute(1 << 30) == 1  # cudaErrorInvalidValue


def test_a_model_is_compiled_constructed_and_run(
    builder: Builder, load: Callable[..., Any], tmp_path: Path
) -> None:
    context = LoadContext(
        device=torch.device("cuda", 0),
        side="candidate",
        seed=3,
        scratch=tmp_path,
        build=builder.result,
    )
    code = KernelCode(source_code=MODEL, kernel_type=KernelType.TORCH_CUDA)
    language = TorchCudaLanguage()
    language.read(code, "candidate")
    kernel = language.load(code, context)
    assert kernel.init_inputs == [8]
    inputs = kernel.make_inputs()
    assert inputs is not None
    torch.manual_seed(3)
    with torch.device("cuda"):
        linear = torch.nn.Linear(8, 8)
    with torch.no_grad():
        torch.testing.assert_close(kernel(inputs), 2 * linear(inputs[0]))
