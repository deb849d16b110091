"""The cases that KernelJudge is measured on, and the requests that they are."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.task import Task, source
from kerneljudge import (
    CompareRequest,
    IOContract,
    IOContractBuilder,
    KernelCode,
    KernelType,
    LaunchConfig,
    LaunchDim,
    create_randn_spec,
)

__all__ = ["CASES", "Case", "request"]

_BLOCK = {"triton": 1024, "cuda": 256}


@dataclass(frozen=True)
class Case:
    """One kind of candidate, and whether the server has seen its source before."""

    name: str
    """Its row in the table."""
    kernel_type: KernelType
    """What the candidate is written in."""
    fresh: bool
    """Whether each repetition has a source that the server never saw."""
    budget: float | None
    """Seconds that it may take on one H200."""


CASES = {
    case.name: case
    for case in (
        Case("triton, seen", KernelType.TRITON, fresh=False, budget=0.5),
        Case("torch_cuda, never seen", KernelType.TORCH_CUDA, fresh=True, budget=3.0),
        Case("torch_cuda, seen", KernelType.TORCH_CUDA, fresh=False, budget=0.5),
        Case("cuda, never seen", KernelType.CUDA, fresh=True, budget=0.6),
        Case("cuda, seen", KernelType.CUDA, fresh=False, budget=None),
        Case("multi_kernel, seen", KernelType.MULTI_KERNEL, fresh=False, budget=None),
    )
}

_FILES = {
    KernelType.TRITON: "triton_kernel.py",
    KernelType.TORCH_CUDA: "model_torch_cuda.py",
    KernelType.CUDA: "cuda_kernel.cu",
    KernelType.MULTI_KERNEL: "multi_kernel.py",
}


def _contract(task: Task, kernel_type: KernelType) -> IOContract:
    shape = [task.rows, task.columns]
    builder = (
        IOContractBuilder()
        .add_input_tensor("x", create_randn_spec(shape, dtype="float32", seed=1))
        .add_input_tensor("y", create_randn_spec(shape, dtype="float32", seed=2))
    )
    if kernel_type in (KernelType.TRITON, KernelType.CUDA):
        block = _BLOCK[kernel_type.value]
        grid = LaunchDim(x=-(-task.elements // block))
        builder.add_output_tensor("out", shape=shape, dtype="float32")
        builder.add_scalar("n", "int", task.elements)
        if kernel_type is KernelType.TRITON:
            builder.add_meta_param("BLOCK", value=block)
            builder.set_launch_config(LaunchConfig(grid=grid, num_warps=4))
        else:
            builder.set_launch_config(LaunchConfig(grid=grid, block=LaunchDim(x=block)))
    return builder.build()


def request(task: Task, case: Case, revision: int) -> CompareRequest:
    """The comparison of a case's candidate with the reference in torch."""
    reference = KernelCode(
        source_code=source("reference.py", task),
        kernel_type=KernelType.TORCH,
        io=_contract(task, KernelType.TORCH),
    )
    candidate = KernelCode(
        source_code=source(_FILES[case.kernel_type], task, revision),
        kernel_type=case.kernel_type,
        io=_contract(task, case.kernel_type),
        metadata={"entry_point": "run"} if case.kernel_type is KernelType.MULTI_KERNEL else None,
    )
    return CompareRequest(
        ref_kernel=reference,
        custom_kernel=candidate,
        num_checks=task.checks,
        num_trials=task.trials,
    )
