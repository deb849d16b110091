"""`multi_kernel` scripts: the entry point, what it is given, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_runs import KernelRun, load, run
from torch.utils import cpp_extension

from kerneljudge.building import BuildRequest, BuildResult
from kerneljudge.languages import LANGUAGES, LoadError, Refusal
from kerneljudge.schema import KernelCode, KernelType

X: dict[str, Any] = {
    "name": "x",
    "type": "tensor",
    "tensor_spec": {"shape": [64], "init": {"kind": "randn", "seed": 1}},
}
OUT: dict[str, Any] = {
    "name": "out",
    "type": "tensor",
    "role": "output",
    "tensor_spec": {"shape": [64]},
}


@pytest.fixture(autouse=True)
def torchs_own_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a script replaces `load_inline` and `load` for good: not beyond the test."""
    for name in ("load_inline", "load"):
        monkeypatch.setattr(cpp_extension, name, getattr(cpp_extension, name))


def script(source: str, *args: dict[str, Any], entry_point: str = "run") -> KernelCode:
    return KernelCode.model_validate(
        {
            "source_code": source,
            "kernel_type": "multi_kernel",
            "io": {"args": list(args)},
            "metadata": {"entry_point": entry_point, "description": "a test"},
        }
    )


@pytest.mark.unit
def test_the_entry_point_gets_every_argument_in_order(tmp_path: Path) -> None:
    source = "def run(*args):\n    return list(args)"
    args = (
        {"name": "BLOCK", "type": "int", "value": 4, "is_meta": True},
        X,
        {"name": "mode", "type": "str", "value": "fast"},
        OUT,
        {"name": "flag", "type": "bool", "value": True},
    )
    done = run(script(source, *args), tmp_path)
    assert done.name == "run"
    assert done.returned[0] == 4
    assert done.returned[1] is done.after["x"]
    assert done.returned[2] == "fast"
    assert done.returned[3] is done.after["out"]
    assert done.returned[4] is True


@pytest.mark.unit
def test_another_entry_point_may_be_named(tmp_path: Path) -> None:
    source = "def run(x):\n    return x\ndef twice(x):\n    return x * 2"
    done = run(script(source, X, entry_point="twice"), tmp_path)
    assert torch.equal(done.returned, done.given["x"] * 2)


@pytest.mark.unit
def test_a_missing_entry_point_is_told_with_the_functions(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(script("def main(x):\n    return x\ndef helper():\n    pass", X), tmp_path)
    assert caught.value.message == "Entry point function 'run' not found in module"
    assert "functions main, helper" in (caught.value.hint or "")


@pytest.mark.unit
@pytest.mark.parametrize("late", [False, True], ids=["on import", "in the first call"])
def test_load_inline_asks_the_builder(tmp_path: Path, late: bool) -> None:
    source = """
from torch.utils.cpp_extension import load_inline

def build():
    return load_inline(name="m", cpp_sources="int f();", cuda_sources="__global__ void k() {}")

module = None if LATE else build()

def run(x):
    return build()
"""
    asked: list[BuildRequest] = []

    def build(request: BuildRequest) -> BuildResult:
        asked.append(request)
        return BuildResult(ok=False, way="fast", log="the compiler's words", hint="mend it")

    with pytest.raises(LoadError) as caught:
        run(script(source.replace("LATE", str(late)), X), tmp_path, build=build)
    assert caught.value.message.endswith("the compiler's words")
    (request,) = asked
    assert request.kind == "extension"
    assert request.cuda_sources == ["__global__ void k() {}"]


@pytest.mark.integration
@pytest.mark.triton
def test_triton_and_torch_work_in_one_script(
    interpret: Callable[..., KernelRun],
) -> None:
    source = """
import torch
import triton
import triton.language as tl

@triton.autotune(configs=[triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"])
@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offsets, 2 * tl.load(x_ptr + offsets, mask=offsets < n), mask=offsets < n)

def run(x):
    y = torch.empty_like(x)
    double[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel())
    return y + 1
"""
    done = interpret(script(source, X))
    assert torch.equal(done.returned, done.given["x"] * 2 + 1)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('def run(x):\n    pass\nif __name__ == "__main__":\n    run(1)\n', "Remove test code"),
        ("import torch\ndef run(x):\n    pass\ny = run(torch.ones(3))\n", "Don't execute"),
        ("from .helpers import f\ndef run(x):\n    pass\n", "No relative imports"),
    ],
)
def test_unacceptable_sources_are_refused(source: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        LANGUAGES[KernelType.MULTI_KERNEL].read(script(source, X), "candidate")
    assert caught.value.message.startswith(words)
    assert len(caught.value.hint) > 20


@pytest.mark.gpu
def test_cupy_works_on_torchs_stream(tmp_path: Path) -> None:
    pytest.importorskip("cupy")
    source = '''
import cupy as cp
import torch

negate = cp.RawKernel(r"""
extern "C" __global__ void negate(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = -x[i];
}
""", "negate")

def run(x):
    y = torch.empty_like(x)
    negate((1,), (64,), (cp.asarray(x), cp.asarray(y), x.numel()))
    return y, cp.cuda.get_current_stream().ptr
'''
    loaded = load(script(source, X), tmp_path, device="cuda:0")
    x = torch.arange(64, dtype=torch.float32, device="cuda:0")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        y, stream = loaded([x])
    torch.cuda.synchronize()
    assert stream == side.cuda_stream
    assert torch.equal(y, -x)
