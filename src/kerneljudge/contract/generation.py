"""Makes the tensors of a contract. Imports torch."""

from __future__ import annotations

import torch

from kerneljudge.contract.dtypes import DType, dtype_of
from kerneljudge.contract.literal import tensor_from_data
from kerneljudge.contract.seeds import argument_seed, trial_seed, value_seed
from kerneljudge.contract.tensors import TensorInit, TensorSpec

__all__ = [
    "allocate",
    "argument_seed",
    "fill",
    "generate",
    "torch_dtype",
    "trial_seed",
    "value_seed",
]

# Elements drawn at once for the dtypes that torch does not draw in: 64 MiB of float32. Part of
# what the values are, since a generator's state advances by the piece.
_PIECE = 2**24

# `randn` of int64 is limited to this; of other integers to what they hold.
_INT64_LIMIT = 1_000_000


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a name, with or without `torch.`; ValueError if contracts have it not."""
    dtype: torch.dtype = getattr(torch, dtype_of(name).name)
    return dtype


def allocate(spec: TensorSpec, *, device: torch.device | str) -> torch.Tensor:
    """A tensor of the spec's shape, dtype and strides, its values undefined.

    The gaps that strides leave hold zeros.
    """
    dtype = torch_dtype(spec.dtype)
    if spec.strides is None:
        return torch.empty(spec.shape, dtype=dtype, device=device)
    storage = torch.zeros(spec.storage_numel, dtype=dtype, device=device)
    return storage.as_strided(spec.shape, spec.strides)


def generate(spec: TensorSpec, *, name: str, device: torch.device | str, seed: int) -> torch.Tensor:
    """The tensor that a spec describes, with its values; see `fill`."""
    tensor = allocate(spec, device=device)
    fill(tensor, spec, seed, name=name)
    return tensor


def fill(tensor: torch.Tensor, spec: TensorSpec, seed: int, *, name: str) -> None:
    """Writes the values of a spec into a tensor of its shape and dtype, of any strides.

    `seed` decides what `randn` and `uniform` draw (`value_seed` gives it; that of the spec is not
    looked at), and nothing else. The same seed gives the same values on devices of one model,
    whatever the strides; a CPU and a GPU differ, and so may two models of GPU. A spec with neither
    init nor data is filled as by `TensorInit()`. Raises ValueError, beginning with `name`, where
    shape or dtype differ or the data is not what they make.
    """
    if list(tensor.shape) != spec.shape or tensor.dtype != torch_dtype(spec.dtype):
        raise ValueError(
            f"'{name}': a tensor of shape {list(tensor.shape)} and {tensor.dtype} cannot hold the "
            f"values of shape {spec.shape} and {spec.dtype}"
        )
    init = spec.init if spec.init is not None else TensorInit()
    with torch.no_grad():
        if spec.data is not None:
            try:
                tensor.copy_(tensor_from_data(spec))
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from None
        elif init.draws:
            generator = torch.Generator(device=tensor.device)
            generator.manual_seed(seed)
            _draw(tensor, init, dtype_of(spec.dtype), generator)
        elif init.kind == "arange":
            _count(tensor, init, dtype_of(spec.dtype))
        else:
            value = {"zeros": 0, "ones": 1}.get(init.kind, init.fill_value)
            # Of the tensor's dtype and device, so that the copy is a broadcast whatever they are.
            constant = torch.tensor(value, dtype=_wide(dtype_of(spec.dtype))).to(tensor.dtype)
            tensor.copy_(constant.to(tensor.device))


def _wide(dtype: DType) -> torch.dtype:
    """The dtype to compute values in before they are rounded to theirs."""
    return torch.float64 if dtype.kind == "float" else torch.int64


def _count(tensor: torch.Tensor, init: TensorInit, dtype: DType) -> None:
    line = tensor if tensor.dim() else tensor.unsqueeze(0)
    wide = _wide(dtype)
    number = float if dtype.kind == "float" else int
    extent = line.shape[-1]
    for first in range(0, extent, _PIECE):
        after = min(first + _PIECE, extent)
        index = torch.arange(first, after, dtype=wide, device=tensor.device)
        values = index * number(init.step) + number(init.start)
        line[..., first:after].copy_(values.to(tensor.dtype))


def _draw(tensor: torch.Tensor, init: TensorInit, dtype: DType, generator: torch.Generator) -> None:
    if not tensor.is_contiguous():
        # Torch draws in the order of memory, but values must not depend on strides.
        values = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        _draw(values, init, dtype, generator)
        tensor.copy_(values)
    elif dtype.kind != "float":
        low, high = _integers(init, dtype)
        tensor.random_(low, high, generator=generator)
    elif tensor.dtype in (torch.float32, torch.float64):
        _draw_floats(tensor, init, dtype, generator)
    else:
        flat = tensor.view(-1)
        for first in range(0, flat.numel(), _PIECE):
            piece = flat[first : first + _PIECE]
            values = torch.empty(piece.shape, dtype=torch.float32, device=tensor.device)
            _draw_floats(values, init, dtype, generator)
            piece.copy_(values)


def _draw_floats(
    tensor: torch.Tensor, init: TensorInit, dtype: DType, generator: torch.Generator
) -> None:
    if init.kind == "uniform":
        low, high = init.bounds(dtype.name)
        tensor.uniform_(float(low), float(high), generator=generator)
        return
    tensor.normal_(float(init.mean), float(init.std), generator=generator)
    # Torch's normal values lie within 9 standard deviations: -2 ln(2**-53) is 8.6 squared.
    if abs(init.mean) + 9 * init.std > dtype.highest:
        tensor.clamp_(dtype.lowest, dtype.highest)


def _integers(init: TensorInit, dtype: DType) -> tuple[int, int]:
    """The lowest value to draw, and the one after the highest."""
    if init.kind == "uniform":
        low, high = init.bounds(dtype.name)
        return int(low), int(high)
    if dtype.name == "int64":
        return -_INT64_LIMIT, _INT64_LIMIT + 1
    return int(dtype.lowest), int(dtype.highest) + 1
