"""What a kernel takes and returns: arguments, tensors, literal data and launch configuration.

Needs neither torch nor numpy. `kerneljudge.contract.generation` makes the tensors, and needs torch.
"""

from kerneljudge.contract.builders import (
    IOContractBuilder,
    create_arange_spec,
    create_full_spec,
    create_ones_spec,
    create_randn_spec,
    create_tensor_spec,
    create_uniform_spec,
    create_zeros_spec,
)
from kerneljudge.contract.codec import Compression, decode, encode
from kerneljudge.contract.dtypes import DTYPES, DType, DTypeName, dtype_of
from kerneljudge.contract.launch import LaunchConfig, LaunchDim
from kerneljudge.contract.literal import data_from_tensor, tensor_from_data
from kerneljudge.contract.seeds import argument_seed, trial_seed, value_seed
from kerneljudge.contract.spec import (
    MAX_LITERAL_BYTES,
    ArgSpec,
    ArgType,
    IOContract,
    Role,
    require_launch,
)
from kerneljudge.contract.tensors import InitKind, TensorData, TensorInit, TensorSpec

__all__ = [
    "DTYPES",
    "MAX_LITERAL_BYTES",
    "ArgSpec",
    "ArgType",
    "Compression",
    "DType",
    "DTypeName",
    "IOContract",
    "IOContractBuilder",
    "InitKind",
    "LaunchConfig",
    "LaunchDim",
    "Role",
    "TensorData",
    "TensorInit",
    "TensorSpec",
    "argument_seed",
    "create_arange_spec",
    "create_full_spec",
    "create_ones_spec",
    "create_randn_spec",
    "create_tensor_spec",
    "create_uniform_spec",
    "create_zeros_spec",
    "data_from_tensor",
    "decode",
    "dtype_of",
    "encode",
    "require_launch",
    "tensor_from_data",
    "trial_seed",
    "value_seed",
]
