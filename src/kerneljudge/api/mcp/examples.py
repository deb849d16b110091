"""A right kernel of every type, and the tool arguments that send it."""

from __future__ import annotations

from typing import Any, Final

from kerneljudge.api.examples import COMPARE_EXAMPLES, EVALUATE_EXAMPLES
from kerneljudge.schema import KernelType

__all__ = ["KERNELS", "calls"]

_ADD: Final = EVALUATE_EXAMPLES["torch_function"]["value"]["kernel"]
_ADD_AND_DOUBLE: Final = {
    **_ADD,
    "source_code": "def add(x, y):\n    return (x + y) * 2\n",
}

KERNELS: Final[dict[KernelType, dict[str, Any]]] = {
    KernelType.TORCH: _ADD,
    KernelType.TORCH_CUDA: {
        "source_code": COMPARE_EXAMPLES["legacy"]["value"]["custom_code"],
        "kernel_type": "torch_cuda",
        "metadata": {"class_name": "ModelNew"},
        "io": _ADD["io"],
    },
    KernelType.TRITON: EVALUATE_EXAMPLES["triton"]["value"]["kernel"],
    KernelType.CUDA: {
        **EVALUATE_EXAMPLES["cuda"]["value"]["kernel"],
        "metadata": {"kernel_name": "add", "compiler_options": ["--use_fast_math"]},
    },
    KernelType.MULTI_KERNEL: EVALUATE_EXAMPLES["multi_kernel"]["value"]["kernel"],
}
"""For each type one kernel, in the form of POST /evaluate."""


def calls(kernel_type: KernelType) -> dict[str, dict[str, Any]]:
    """For each tool that judges, arguments that it accepts for a kernel of this type."""
    kernel = KERNELS[kernel_type]
    reference = _ADD_AND_DOUBLE if kernel_type is KernelType.MULTI_KERNEL else _ADD
    alone = {
        "kernel_source": kernel["source_code"],
        "kernel_type": kernel["kernel_type"],
        "io_contract": kernel["io"],
        "metadata": kernel["metadata"],
    }
    return {
        "validate_kernel": alone,
        "evaluate_kernel": {
            **alone,
            "reference_kernel_source": reference["source_code"],
            "reference_kernel_type": reference["kernel_type"],
            "reference_io_contract": reference["io"],
            "reference_kernel_metadata": reference["metadata"],
            "num_trials": 20,
        },
        "compare_kernels": {
            "ref_kernel_source": reference["source_code"],
            "ref_kernel_type": reference["kernel_type"],
            "ref_kernel_io": reference["io"],
            "ref_kernel_metadata": reference["metadata"],
            "custom_kernel_source": kernel["source_code"],
            "custom_kernel_type": kernel["kernel_type"],
            "custom_kernel_io": kernel["io"],
            "custom_kernel_metadata": kernel["metadata"],
            "num_trials": 20,
        },
    }
