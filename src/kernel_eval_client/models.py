"""Kernels, contracts and statistics."""

from kerneljudge.api import RuntimeStatistics as RuntimeStats
from kerneljudge.contract import (
    ArgSpec,
    IOContract,
    LaunchConfig,
    LaunchDim,
    TensorData,
    TensorInit,
    TensorSpec,
)
from kerneljudge.schema import KernelCode, KernelType

__all__ = [
    "ArgSpec",
    "IOContract",
    "KernelCode",
    "KernelType",
    "LaunchConfig",
    "LaunchDim",
    "RuntimeStats",
    "TensorData",
    "TensorInit",
    "TensorSpec",
]
