"""KernelJudge: an online judge for GPU kernels.

The names below are loaded when they are first used, so that `import kerneljudge` costs next to
nothing; none of them imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerneljudge.client import AsyncKernelJudgeClient, KernelJudgeClient
    from kerneljudge.contract import (
        ArgSpec,
        IOContract,
        IOContractBuilder,
        LaunchConfig,
        LaunchDim,
        TensorData,
        TensorInit,
        TensorSpec,
        create_arange_spec,
        create_full_spec,
        create_ones_spec,
        create_randn_spec,
        create_tensor_spec,
        create_uniform_spec,
        create_zeros_spec,
    )
    from kerneljudge.schema import (
        CompareRequest,
        EvaluateRequest,
        JobReport,
        KernelCode,
        KernelType,
        Verdict,
        load_from_file,
        save_to_file,
        to_json,
    )

__version__ = "0.1.0"

__all__ = [
    "ArgSpec",
    "AsyncKernelJudgeClient",
    "CompareRequest",
    "EvaluateRequest",
    "IOContract",
    "IOContractBuilder",
    "JobReport",
    "KernelCode",
    "KernelJudgeClient",
    "KernelType",
    "LaunchConfig",
    "LaunchDim",
    "TensorData",
    "TensorInit",
    "TensorSpec",
    "Verdict",
    "__version__",
    "create_arange_spec",
    "create_full_spec",
    "create_ones_spec",
    "create_randn_spec",
    "create_tensor_spec",
    "create_uniform_spec",
    "create_zeros_spec",
    "load_from_file",
    "save_to_file",
    "to_json",
]

_CLIENT = {"AsyncKernelJudgeClient", "KernelJudgeClient"}
_SCHEMA = {
    "CompareRequest",
    "EvaluateRequest",
    "JobReport",
    "KernelCode",
    "KernelType",
    "Verdict",
    "load_from_file",
    "save_to_file",
    "to_json",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = "client" if name in _CLIENT else "schema" if name in _SCHEMA else "contract"
    value = getattr(import_module(f"{__name__}.{package}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
