"""Packs the arguments of a contract as the parameters of a compiled CUDA kernel.

A cubin tells only how wide its parameters are. What they are is taken from the contract, and from
the source's declaration where that is plain.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal

from kerneljudge.contract import ArgSpec, DTypeName, dtype_of
from kerneljudge.languages.base import LoadError
from kerneljudge.languages.cuda_source import CudaParameter

__all__ = ["ArgumentBuffer"]

_POINTER_BYTES = 8
_ALIGNMENT = 16  # more than any scalar needs
_FLOAT_FORMATS = {8: "<d", 4: "<f", 2: "<e"}


class ArgumentBuffer:
    """The memory that a launch reads its parameters from; one place a parameter, filled anew.

    `specs` are the contract's arguments without its meta arguments, `sizes` the bytes of the
    kernel's parameters, and `declared` what the source says of them, if it does.

    Raises `LoadError` naming the argument and the parameter where count, kind or width differ.
    """

    def __init__(
        self,
        kernel_name: str,
        specs: Sequence[ArgSpec],
        sizes: Sequence[int],
        declared: Sequence[CudaParameter] | None = None,
    ) -> None:
        places = [
            f"parameter {index}" + (f" (`{declared[index].text}`)" if declared else "")
            for index in range(len(sizes))
        ]
        _check_count(kernel_name, specs, places)
        kinds = declared or [CudaParameter("", None)] * len(sizes)
        self._writers: list[Callable[[Any], bytes]] = [
            _writer(spec, size, kind, place)
            for spec, size, kind, place in zip(specs, sizes, kinds, places, strict=True)
        ]
        offsets: list[int] = []
        end = 0
        for size in sizes:
            offsets.append(end)
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        buffer = ctypes.create_string_buffer(max(end, 1))
        self._bytes = memoryview(buffer).cast("B")
        self._offsets = offsets
        start = ctypes.addressof(buffer)
        # At least one element: an array of none has no address.
        self._pointers = (ctypes.c_void_p * max(len(sizes), 1))(
            *(start + offset for offset in offsets)
        )

    @property
    def address(self) -> int:
        """The address of the array of pointers that `cuLaunchKernel` takes as kernelParams."""
        return ctypes.addressof(self._pointers)

    def fill(self, values: Sequence[Any]) -> None:
        """Writes the values of one launch: tensors as their data pointers, scalars by width."""
        for offset, write, value in zip(self._offsets, self._writers, values, strict=True):
            data = write(value)
            self._bytes[offset : offset + len(data)] = data

    def raw(self, index: int, size: int) -> bytes:
        """The first `size` bytes of a parameter, as a launch would read them."""
        return bytes(self._bytes[self._offsets[index] : self._offsets[index] + size])


def _check_count(kernel_name: str, specs: Sequence[ArgSpec], places: Sequence[str]) -> None:
    if len(specs) == len(places):
        return
    if len(specs) < len(places):
        raise LoadError(
            f"{places[len(specs)].capitalize()} of kernel '{kernel_name}' has no argument: the "
            f"kernel takes {len(places)}, the contract gives {len(specs)}",
            "Add the missing argument to the contract, in the kernel's order; meta arguments are "
            "not passed to a CUDA kernel.",
        )
    raise LoadError(
        f"Argument '{specs[len(places)].name}' has no parameter in kernel '{kernel_name}': the "
        f"kernel takes {len(places)}, the contract gives {len(specs)}",
        "Remove it from the contract, or mark it is_meta: meta arguments are not passed to a "
        "CUDA kernel.",
    )


def _writer(
    spec: ArgSpec, size: int, declared: CudaParameter, place: str
) -> Callable[[Any], bytes]:
    """How values of one argument become the bytes of its parameter."""
    name = f"Argument '{spec.name}'"
    kind = declared.kind
    if spec.type == "tensor":
        if size != _POINTER_BYTES or kind not in (None, "pointer"):
            raise LoadError(
                f"{name} is a tensor, and {place} is no pointer: it takes {size} bytes",
                "Put the contract's arguments in the kernel's order.",
            )
        return lambda tensor: struct.pack("<Q", tensor.data_ptr())
    if spec.type == "str":
        raise LoadError(
            f"{name} is a string, which a CUDA kernel cannot take: {place}",
            "Pass a number, or mark the argument is_meta.",
        )
    if kind == "pointer":
        raise LoadError(
            f"{name} is of type {spec.type}, and {place} is a pointer",
            "Put the contract's arguments in the kernel's order.",
        )
    if spec.dtype is not None:
        return _typed_writer(spec, spec.dtype, size, kind, place)
    if spec.type == "float" or (spec.type == "int" and kind == "float"):
        # An int for a float parameter converts, as it does in C++.
        if kind in ("int", "bool"):
            raise LoadError(
                f"{name} is of type float, and {place} is an integer",
                "Give an int, or make the parameter a floating-point number.",
            )
        if declared.bfloat16:
            return _typed_writer(spec, "bfloat16", size, None, place)
        return _float_writer(spec, size, place)
    if spec.type == "bool" and not (size == 1 or kind == "int"):
        raise LoadError(
            f"{name} is a bool, of 1 byte, and {place} takes {size} bytes",
            "Make the parameter a bool, or give the argument the parameter's type.",
        )
    return _int_writer(spec, size, place)


def _typed_writer(
    spec: ArgSpec,
    dtype: DTypeName,
    size: int,
    kind: Literal["pointer", "float", "int", "bool"] | None,
    place: str,
) -> Callable[[Any], bytes]:
    traits = dtype_of(dtype)
    if traits.itemsize != size or (kind is not None and kind != traits.kind):
        raise LoadError(
            f"Argument '{spec.name}' has dtype {dtype}, of {traits.itemsize} bytes, and {place} "
            f"takes {size} bytes" + (f" as {kind}" if kind else ""),
            "Give the argument the parameter's dtype, or leave dtype out.",
        )
    if traits.kind != "float":
        return _int_writer(spec, size, place)
    if dtype in ("float64", "float32", "float16"):
        return _float_writer(spec, size, place)

    def write(value: float) -> bytes:
        import torch

        scalar = torch.tensor([value], dtype=getattr(torch, dtype))
        return bytes(scalar.view(torch.uint8).tolist())

    return write


def _float_writer(spec: ArgSpec, size: int, place: str) -> Callable[[Any], bytes]:
    layout = _FLOAT_FORMATS.get(size)
    if layout is None:
        raise LoadError(
            f"Argument '{spec.name}' is of type float, and {place} takes {size} bytes",
            "A float is passed as 2, 4 or 8 bytes; set the argument's dtype for another format.",
        )
    _check_range(spec, place, lambda: struct.pack(layout, spec.value))
    return lambda value: struct.pack(layout, value)


def _int_writer(spec: ArgSpec, size: int, place: str) -> Callable[[Any], bytes]:
    if size not in (1, 2, 4, 8):
        raise LoadError(
            f"Argument '{spec.name}' is of type {spec.type}, and {place} takes {size} bytes",
            "A scalar is passed as 1, 2, 4 or 8 bytes; a struct cannot be passed.",
        )

    def write(value: int) -> bytes:
        # Whether the parameter is signed is not known: both ranges fit the same bytes.
        return int(value).to_bytes(size, "little", signed=value < 0)

    _check_range(spec, place, lambda: write(spec.value))  # type: ignore[arg-type]
    return write


def _check_range(spec: ArgSpec, place: str, write: Callable[[], bytes]) -> None:
    try:
        write()
    except (OverflowError, struct.error):
        raise LoadError(
            f"Argument '{spec.name}' = {spec.value} does not fit {place}",
            "Give a smaller value, or make the parameter wider.",
        ) from None
