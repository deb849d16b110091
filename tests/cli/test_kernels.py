"""Kernels are read from files: their type is told from the source, which is never executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kerneljudge.cli.console import Usage
from kerneljudge.cli.demo import demo_kernels
from kerneljudge.cli.kernels import (
    KernelOptions,
    infer_type,
    makes_inputs,
    read_kernel,
    read_metadata,
)
from kerneljudge.schema import KernelType

pytestmark = pytest.mark.unit

TRITON = """
import triton
import triton.language as tl

@triton.jit
def k(x_ptr, BLOCK: tl.constexpr):
    pass
"""
LAUNCHED = TRITON + "\ndef run(x):\n    k[(1,)](x, BLOCK=1)\n"
EXTENSION = """
from torch.utils.cpp_extension import load_inline
m = load_inline(name="m", cpp_sources="", cuda_sources="", functions=[])
"""
MODEL = "class Model:\n    def forward(self, x):\n        return x\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (MODEL, KernelType.TORCH),
        ("def f(x): return x", KernelType.TORCH),
        (TRITON, KernelType.TRITON),
        (TRITON.replace("@triton.jit", "@triton.autotune(configs=[], key=[])\n@triton.jit"),
         KernelType.TRITON),
        (TRITON.replace("@triton.jit", "@jit"), KernelType.TRITON),
        (EXTENSION, KernelType.TORCH_CUDA),
        (EXTENSION + MODEL, KernelType.TORCH_CUDA),
        ("import torch.utils.cpp_extension as e\nm = e.load_inline(name='m')",
         KernelType.TORCH_CUDA),
        ("from torch.utils.cpp_extension import load\nm = load(name='m', sources=[])",
         KernelType.TORCH_CUDA),
        ("import json\nx = json.load", KernelType.TORCH),
        ('"""Uses load_inline and @triton.jit and cupy."""\ndef f(x): return x', KernelType.TORCH),
    ],
)  # fmt: skip
def test_the_type_is_told_from_the_syntax_tree(source: str, expected: KernelType) -> None:
    assert infer_type(Path("kernel.py"), source, {}) is expected


@pytest.mark.parametrize("name", ["kernel.cu", "kernel.cuh"])
def test_a_cuda_file_is_cuda_whatever_it_holds(name: str) -> None:
    assert infer_type(Path(name), "__global__ void k() {}", {}) is KernelType.CUDA


def test_an_entry_point_makes_a_multi_kernel() -> None:
    assert infer_type(Path("k.py"), LAUNCHED, {"entry_point": "run"}) is KernelType.MULTI_KERNEL


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (LAUNCHED, "a launch of its Triton kernels"),
        (TRITON + MODEL, "a model"),
        (TRITON + EXTENSION, "Triton kernels, load_inline"),
        ("import cupy as cp", "CuPy"),
    ],
)
def test_a_mixture_asks_for_its_entry_point(source: str, reason: str) -> None:
    with pytest.raises(Usage, match=f"{reason}.*--entry-point"):
        infer_type(Path("kernel.py"), source, {})


def test_what_is_no_python_asks_for_its_type(tmp_path: Path) -> None:
    broken = tmp_path / "kernel.py"
    broken.write_text("def f(:\n")
    with pytest.raises(Usage, match="give --type"):
        read_kernel(broken, KernelOptions())
    assert read_kernel(broken, KernelOptions(KernelType.TORCH)).source_code == "def f(:\n"


def test_reading_executes_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    source = tmp_path / "kernel.py"
    source.write_text(f"open({str(witness)!r}, 'w')\ndef f(x): return x\n")
    read_kernel(source, KernelOptions())
    assert makes_inputs(source.read_text()) is False
    assert not witness.exists()


def test_makes_inputs_looks_for_the_function_itself() -> None:
    assert makes_inputs("def get_inputs():\n    return []\n")
    assert not makes_inputs("# def get_inputs():\n")
    assert not makes_inputs("class A:\n    def get_inputs(self): pass\n")
    assert not makes_inputs("def (")


def test_the_contract_comes_from_a_file(tmp_path: Path) -> None:
    source = tmp_path / "kernel.py"
    source.write_text(TRITON)
    contract = tmp_path / "contract.json"
    args = [{"name": "BLOCK", "type": "int", "value": 8, "is_meta": True}]
    contract.write_text(json.dumps({"args": args, "launch": {"grid": {"x": 2}}}))
    kernel = read_kernel(source, KernelOptions(contract=contract))
    assert kernel.kernel_type is KernelType.TRITON
    assert kernel.io is not None
    assert kernel.io.args[0].value == 8


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ('{"args": [{"name": "x"}]}', "not a valid IOContract"),
    ],
)
def test_a_bad_contract_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    source = tmp_path / "kernel.py"
    source.write_text(TRITON)
    contract = tmp_path / "contract.json"
    if content is not None:
        contract.write_text(content)
    with pytest.raises(Usage, match=complaint) as raised:
        read_kernel(source, KernelOptions(contract=contract))
    assert str(contract) in str(raised.value)


def test_a_kernel_without_its_contract_says_so(tmp_path: Path) -> None:
    source = tmp_path / "kernel.py"
    source.write_text(TRITON)
    with pytest.raises(Usage, match=r"IOContract is required for Triton.*\(--contract FILE\)"):
        read_kernel(source, KernelOptions())


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "No such file"), (b"\xff\xfe\x00", "is not UTF-8")]
)
def test_a_source_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    source = tmp_path / "kernel.py"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(Usage, match=complaint):
        read_kernel(source, KernelOptions())


def test_metadata_is_json_or_a_file_and_shortcuts_win(tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    file.write_text('{"kernel_name": "a", "mine": [1]}')
    shortcuts = {"kernel_name": "b", "entry_point": None}
    assert read_metadata(None, shortcuts) == {"kernel_name": "b"}
    assert read_metadata('{"mine": 1}', {}) == {"mine": 1}
    assert read_metadata(f"@{file}", shortcuts) == {"kernel_name": "b", "mine": [1]}


@pytest.mark.parametrize("text", ["{", "[1]", '"text"', "@/no/such/file"])
def test_bad_metadata_is_a_usage_error(text: str) -> None:
    with pytest.raises(Usage, match=r"JSON|No such file"):
        read_metadata(text, {})


def test_the_demo_has_a_kernel_of_every_type() -> None:
    kernels = demo_kernels()
    assert set(kernels) == set(KernelType)
    for kernel_type, kernel in kernels.items():
        suffix = "cu" if kernel_type is KernelType.CUDA else "py"
        told = infer_type(Path(f"kernel.{suffix}"), kernel.source_code, kernel.metadata or {})
        assert told is kernel_type
