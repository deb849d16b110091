"""Literal data from and to torch tensors. Torch is imported when a function is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerneljudge.contract.codec import Compression
from kerneljudge.contract.dtypes import dtype_of
from kerneljudge.contract.tensors import TensorData, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["data_from_tensor", "tensor_from_data"]


def data_from_tensor(tensor: torch.Tensor, compress: Compression = "none") -> TensorData:
    """The values of a tensor of any supported dtype, on any device and of any strides.

    Raises ValueError for a dtype that contracts do not have, and for a tensor without elements.
    """
    import torch

    dtype = dtype_of(str(tensor.dtype))
    if not tensor.numel():
        raise ValueError(f"a tensor of shape {list(tensor.shape)} has no elements to give")
    raw = bytearray(tensor.numel() * dtype.itemsize)
    flat = tensor.detach().contiguous().reshape(-1)
    torch.frombuffer(raw, dtype=torch.uint8).copy_(flat.view(torch.uint8))
    return TensorData.from_bytes(bytes(raw), list(tensor.shape), dtype.name, compress)


def tensor_from_data(spec: TensorSpec) -> torch.Tensor:
    """The values that `spec.data` holds, as a row-major tensor on the CPU.

    Raises ValueError where there is no data, or it is not what shape and dtype make.
    """
    import torch

    # A bytearray, because torch warns of read-only buffers.
    raw = bytearray(spec.literal_bytes())
    flat = torch.frombuffer(raw, dtype=torch.uint8).view(getattr(torch, spec.dtype))
    return flat.reshape(spec.shape)
