"""KernelJudge's client under the names of `kernel-eval-client`: results are dicts.

Code written for that package runs as it is. New code has more of `kerneljudge.client`.
"""

from kernel_eval_client.builder import IOContractBuilder
from kernel_eval_client.client import KernelEvalClient
from kernel_eval_client.models import (
    ArgSpec,
    IOContract,
    KernelCode,
    KernelType,
    LaunchConfig,
    LaunchDim,
    RuntimeStats,
    TensorData,
    TensorInit,
    TensorSpec,
)
from kernel_eval_client.specs import (
    create_arange_spec,
    create_full_spec,
    create_ones_spec,
    create_randn_spec,
    create_tensor_spec,
    create_uniform_spec,
    create_zeros_spec,
    load_from_file,
    save_to_file,
    to_json,
)

__all__ = [
    "ArgSpec",
    "IOContract",
    "IOContractBuilder",
    "KernelCode",
    "KernelEvalClient",
    "KernelType",
    "LaunchConfig",
    "LaunchDim",
    "RuntimeStats",
    "TensorData",
    "TensorInit",
    "TensorSpec",
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
