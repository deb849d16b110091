"""Every example is a valid request, is read without refusal, and computes what it should."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kernel_runs import KernelRun, run

from kerneljudge import load_from_file
from kerneljudge.languages import LANGUAGES
from kerneljudge.schema import CompareRequest, EvaluateRequest, KernelCode, KernelType

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS = {
    str(path.relative_to(EXAMPLES)).removesuffix("request.json").rstrip("./"): path
    for path in sorted(EXAMPLES.glob("*/*request.json"))
}

# What each example computes from its inputs, by request; the torch examples with weights and the
# comparisons have tests of their own.
EXPECTED: dict[str, Callable[..., torch.Tensor]] = {
    "torch_targets/function": lambda x, y: torch.matmul(x, y) + torch.relu(x),
    "torch_targets/method": lambda x, y: x + y,
    "torch_model/function": lambda x, y: torch.matmul(x, y) + torch.relu(x),
    "torch_selection/function": lambda x: x * 2,
    "torch_selection/method": lambda x: x * x,
    "torch_plain_class": lambda x: x,
    "torch_relu": torch.relu,
    "seeded_inputs": torch.matmul,
    "triton_vector_add/first": torch.add,
    "triton_vector_add/named": torch.mul,
    "triton_square": torch.square,
    "multi_kernel_add": lambda x, y: (x + y) * 2,
}
WEIGHTED = {
    "torch_targets/forward": (64, 128),
    "torch_model/model": (64, 128),
    "torch_kernelbench": (32, 64),
}
ON_GPU_ONLY = {
    "torch_cuda_add",
    "cuda_vector_add/first",
    "cuda_vector_add/named",
    "multi_kernel_pipeline",
}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def body(name: str) -> dict[str, Any]:
    made: dict[str, Any] = _module(EXAMPLES / "body.py").read_body(REQUESTS[name])
    return made


def kernels(name: str) -> list[KernelCode]:
    """The kernels of a request: one, or a reference and a candidate."""
    content = body(name)
    if "kernel" in content:
        return [EvaluateRequest.model_validate(content).kernel]
    request = CompareRequest.model_validate(content)
    return [request.ref_kernel, request.custom_kernel]


def compute(kernel: KernelCode, interpret: Callable[..., KernelRun], scratch: Path) -> KernelRun:
    if kernel.kernel_type in (KernelType.TRITON, KernelType.MULTI_KERNEL):
        return interpret(kernel)
    return run(kernel, scratch)


def output(kernel: KernelCode, done: KernelRun) -> Any:
    """What was returned, or written into the contract's one output."""
    if kernel.io is not None and done.returned is None:
        (name,) = [arg.name for arg in kernel.io.args if arg.role == "output"]
        return done.after[name]
    return done.returned


@pytest.mark.unit
def test_every_example_is_tested() -> None:
    comparisons = {name for name in REQUESTS if name.startswith("compare_add/")}
    assert set(EXPECTED) | set(WEIGHTED) | ON_GPU_ONLY | comparisons == set(REQUESTS)
    assert comparisons == {f"compare_add/{kind.value}" for kind in KernelType}


@pytest.mark.unit
@pytest.mark.parametrize("name", REQUESTS)
def test_an_example_is_read_without_refusal(name: str) -> None:
    for kernel, side in zip(reversed(kernels(name)), ("candidate", "reference"), strict=False):
        LANGUAGES[kernel.kernel_type].read(kernel, side)  # type: ignore[arg-type]


@pytest.mark.unit
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*contract.json")), ids=str)
def test_an_examples_contract_can_be_loaded_alone(path: Path) -> None:
    assert load_from_file(path).args


@pytest.mark.unit
def test_every_file_of_the_examples_belongs_to_a_request() -> None:
    used = set()
    for path in REQUESTS.values():
        content = json.loads(path.read_text())
        for kernel in content.values():
            if isinstance(kernel, dict):
                used |= {path.parent / kernel[key] for key in kernel if key.endswith("_file")}
    files = {
        path
        for path in EXAMPLES.glob("*/*")
        if path.is_file()
        and not path.name.endswith("request.json")
        and path.parent.name != "client"  # programs, each whole in itself
    }
    assert files - used == {
        EXAMPLES / "builder_workflow/build.py",
        EXAMPLES / "builder_workflow/kernel.py",
    }


@pytest.mark.integration
@pytest.mark.triton
@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_computes_what_it_says(
    name: str, interpret: Callable[..., KernelRun], tmp_path: Path
) -> None:
    (kernel,) = kernels(name)
    done = compute(kernel, interpret, tmp_path)
    assert kernel.io is not None
    inputs = [
        done.given[arg.name]
        for arg in kernel.io.args
        if arg.type == "tensor" and arg.role != "output"
    ]
    torch.testing.assert_close(output(kernel, done), EXPECTED[name](*inputs))


@pytest.mark.integration
@pytest.mark.parametrize("name", WEIGHTED)
def test_an_example_with_weights_computes_its_shape(name: str, tmp_path: Path) -> None:
    (kernel,) = kernels(name)
    done = run(kernel, tmp_path)
    assert tuple(done.returned.shape) == WEIGHTED[name]
    assert done.returned.isfinite().all()


@pytest.mark.integration
@pytest.mark.triton
@pytest.mark.parametrize("kind", ["torch", "triton", "multi_kernel"])
def test_a_candidate_agrees_with_its_reference(
    kind: str, interpret: Callable[..., KernelRun], tmp_path: Path
) -> None:
    reference, candidate = kernels(f"compare_add/{kind}")
    if kind == "torch":
        # Neither has a contract: the candidate is given the reference's own inputs.
        ours = run(reference, tmp_path / "reference", side="reference")
        a, b = ours.after.values()
        theirs = output(candidate, _run_on(candidate, [a, b], tmp_path / "candidate"))
    else:
        ours = run(reference, tmp_path / "reference", side="reference")
        theirs = output(candidate, compute(candidate, interpret, tmp_path))
    torch.testing.assert_close(theirs, ours.returned)


def _run_on(kernel: KernelCode, values: list[Any], scratch: Path) -> KernelRun:
    from kernel_runs import load

    returned = load(kernel, scratch)(values)
    return KernelRun("", [], {}, {}, returned)


@pytest.mark.integration
@pytest.mark.triton
def test_the_builders_request_computes_a_sum(
    interpret: Callable[..., KernelRun], tmp_path: Path
) -> None:
    request = _module(EXAMPLES / "builder_workflow" / "build.py").build()
    assert isinstance(request, EvaluateRequest)
    done = interpret(request.kernel)
    torch.testing.assert_close(done.after["z_ptr"], done.given["x_ptr"] + done.given["y_ptr"])
