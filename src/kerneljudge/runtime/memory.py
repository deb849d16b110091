"""Tensors that two processes see: regions the judge owns, and views of them.

On a CPU a region is a sealed memfd, mapped by both. On a GPU it is one plain allocation, opened
by the runner through its CUDA IPC handle; where that cannot be had, a memfd that the runner
mirrors in device memory of its own. A runner's results come back by the handle of the allocation
they lie in, which the judge opens and measures itself, or are copied into a region.
"""

from __future__ import annotations

import base64
import fcntl
import math
import mmap
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch

from kerneljudge.contract import DTYPES
from kerneljudge.runtime.messages import ExportedTensor, Placement, Region

__all__ = [
    "ALIGNMENT",
    "CudaError",
    "DeviceRegion",
    "HostRegion",
    "ImportedAllocations",
    "OpenRegion",
    "OutOfDeviceMemory",
    "OwnedRegion",
    "dtype_of",
    "export",
    "extent",
    "layout",
    "supports_ipc",
]

ALIGNMENT = 512
"""Bytes between the starts of tensors in a region: what cudaMalloc and torch's allocator give."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_IPC_HANDLE_BYTES = 64
_DTYPES = (*DTYPES, "complex64", "complex128")


class CudaError(RuntimeError):
    """A CUDA call of this module failed."""


class OutOfDeviceMemory(CudaError):
    """There is not enough of it."""


def dtype_of(name: str) -> torch.dtype:
    """Torch's dtype of that name. Raises `ValueError` for one that the judge cannot compare."""
    if name not in _DTYPES:
        raise ValueError(f"{name!r} is no dtype that can be compared: {', '.join(_DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a strided tensor, both included; 0 if it is empty."""
    if any(size == 0 for size in shape):
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def layout(
    tensors: Sequence[tuple[torch.dtype, Sequence[int], Sequence[int] | None]],
) -> tuple[list[Placement], int]:
    """Places tensors of (dtype, shape, strides or None for contiguous) one after another.

    Returns the placements and the size of the region in bytes.
    """
    placements = []
    end = 0
    for dtype, shape, strides in tensors:
        start = math.ceil(end / ALIGNMENT) * ALIGNMENT
        strides = list(strides) if strides is not None else _contiguous(shape)
        placements.append(
            Placement(
                dtype=str(dtype).removeprefix("torch."),
                shape=list(shape),
                strides=strides,
                offset=start,
            )
        )
        end = start + extent(shape, strides) * dtype.itemsize
    return placements, end


def _contiguous(shape: Sequence[int]) -> list[int]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(1, shape[axis + 1])
    return strides


def _view(raw: torch.Tensor, placement: Placement) -> torch.Tensor:
    dtype = dtype_of(placement.dtype)
    size = extent(placement.shape, placement.strides) * dtype.itemsize
    if placement.offset % dtype.itemsize or placement.offset + size > raw.numel():
        raise ValueError(
            f"a {placement.dtype} tensor of shape {placement.shape} does not fit at byte"
            f" {placement.offset} of a region of {raw.numel()}"
        )
    flat = raw[placement.offset : placement.offset + size].view(dtype)
    return flat.as_strided(placement.shape, placement.strides)


# --- the judge's side


class OwnedRegion(Protocol):
    """Memory of the judge that one runner may open."""

    region: Region

    @property
    def descriptors(self) -> list[int]:
        """What to send beside a message that names the region."""

    def tensor(self, placement: Placement) -> torch.Tensor:
        """The judge's own view of a tensor in it."""

    def close(self) -> None:
        """Gives the memory back."""


class HostRegion:
    """A region in host memory; its size can be changed by nobody."""

    def __init__(self, size: int, kind: Literal["shared_memory", "host_staging"]) -> None:
        self.region = Region(kind=kind, size=size)
        self._descriptor = os.memfd_create("kerneljudge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._descriptor, max(size, 1))
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._raw = _map(self._descriptor, size)

    @property
    def descriptors(self) -> list[int]:
        """The memfd."""
        return [self._descriptor]

    def tensor(self, placement: Placement) -> torch.Tensor:
        """A CPU tensor over the shared pages."""
        return _view(self._raw, placement)

    def close(self) -> None:
        """Closes the descriptor; the pages go with the last mapping, this one among them."""
        self._raw = torch.empty(0, dtype=torch.uint8)
        os.close(self._descriptor)


class DeviceRegion:
    """A region in device memory, an allocation of its own, zeroed."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._pointer = _allocate(max(size, 1))
        try:
            self._raw = _device_bytes(self._pointer, max(size, 1), device)
            # Pages that this process freed may come back to it unscrubbed; nobody else may read
            # them.
            self._raw.zero_()
            handle = _ipc_handle(self._pointer)
        except BaseException:
            self.close()
            raise
        self.region = Region(kind="cuda_ipc", size=size, handle=base64.b64encode(handle).decode())

    @property
    def descriptors(self) -> list[int]:
        """None: the handle is in the message."""
        return []

    def tensor(self, placement: Placement) -> torch.Tensor:
        """A CUDA tensor over the shared allocation."""
        return _view(self._raw, placement)

    def close(self) -> None:
        """Frees the allocation."""
        _check(_driver().cuMemFree(self._pointer))


class ImportedAllocations:
    """The allocations of one runner that the judge has opened. Believes no size it is told."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: dict[str, tuple[int, torch.Tensor]] = {}

    def tensor(
        self, exported: ExportedTensor, dtype: torch.dtype, shape: Sequence[int]
    ) -> torch.Tensor:
        """A view of a runner's tensor. Raises `ValueError` if it does not lie wholly inside the
        allocation, whose size the driver tells, and `CudaError` if there is no such handle."""
        if len(exported.strides) != len(shape):
            raise ValueError("the tensor has another number of strides than of dimensions")
        if exported.handle not in self._open:
            self._open[exported.handle] = self._import(exported.handle)
        _, raw = self._open[exported.handle]
        return _view(
            raw,
            Placement(
                dtype=str(dtype).removeprefix("torch."),
                shape=list(shape),
                strides=exported.strides,
                offset=exported.offset,
            ),
        )

    def _import(self, encoded: str) -> tuple[int, torch.Tensor]:
        driver = _driver()
        handle = driver.CUipcMemHandle()
        data = base64.b64decode(encoded, validate=True)
        if len(data) != _IPC_HANDLE_BYTES:
            raise ValueError(f"a CUDA IPC handle has {_IPC_HANDLE_BYTES} bytes, not {len(data)}")
        handle.reserved = data
        pointer = _check(
            driver.cuIpcOpenMemHandle(
                handle, driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
            )
        )
        base, size = _check(driver.cuMemGetAddressRange(pointer))
        return int(base), _device_bytes(int(base), int(size), self._device)

    def close(self) -> None:
        """Closes every one; views of them are invalid from then on."""
        if self._open:
            torch.cuda.synchronize(self._device)
        for pointer, _ in self._open.values():
            _check(_driver().cuIpcCloseMemHandle(pointer))
        self._open.clear()


def supports_ipc(device: torch.device) -> str | None:
    """None if this process can export device memory, else the reason why not."""
    # Makes the device's context the current one of this thread, as the driver's calls need it.
    torch.cuda.set_device(device)
    try:
        DeviceRegion(1, device).close()
    except CudaError as error:
        return str(error)
    return None


# --- the runner's side


class OpenRegion:
    """A region of the judge's as a runner sees it."""

    def __init__(self, region: Region, descriptors: Sequence[int], device: torch.device) -> None:
        """Takes over the descriptors. Raises `ValueError` where they do not fit the region."""
        self._host: torch.Tensor | None = None
        if region.kind == "cuda_ipc":
            if region.handle is None or descriptors:
                raise ValueError("a cuda_ipc region comes with a handle and no descriptor")
            driver = _driver()
            handle = driver.CUipcMemHandle()
            handle.reserved = base64.b64decode(region.handle)
            pointer = _check(
                driver.cuIpcOpenMemHandle(
                    handle, driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
                )
            )
            self._raw = _device_bytes(int(pointer), max(region.size, 1), device)
            return
        (descriptor,) = descriptors
        mapped = _map(descriptor, region.size)
        os.close(descriptor)
        if region.kind == "shared_memory":
            self._raw = mapped
        else:
            self._host = mapped
            self._raw = torch.empty(mapped.numel(), dtype=torch.uint8, device=device)

    def tensor(self, placement: Placement) -> torch.Tensor:
        """The tensor the kernel is given."""
        return _view(self._raw, placement)

    def pull(self) -> None:
        """Brings what the judge wrote to the device, where it is staged."""
        if self._host is not None:
            self._raw.copy_(self._host)

    def push(self) -> None:
        """Brings what the kernel wrote to the judge, where it is staged."""
        if self._host is not None:
            self._host.copy_(self._raw)


def export(tensor: torch.Tensor) -> ExportedTensor:
    """A CUDA tensor's place, by handle of its allocation.

    Raises `CudaError` for memory that has no IPC handle, such as that of a pool or managed memory.
    """
    driver = _driver()
    base, _ = _check(driver.cuMemGetAddressRange(tensor.data_ptr()))
    return ExportedTensor(
        handle=base64.b64encode(_ipc_handle(int(base))).decode(),
        offset=tensor.data_ptr() - int(base),
        strides=list(tensor.stride()),
    )


# --- plumbing


def _map(descriptor: int, size: int) -> torch.Tensor:
    mapping = mmap.mmap(descriptor, max(size, 1))
    return torch.frombuffer(mapping, dtype=torch.uint8)[:size]


class _DeviceBytes:
    """Bytes of device memory as https://numba.readthedocs.io's CUDA array interface, version 3."""

    def __init__(self, pointer: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
            "strides": None,
        }


def _device_bytes(pointer: int, size: int, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(_DeviceBytes(pointer, size), device=device)


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _check(result: tuple[Any, ...]) -> Any:
    status, *values = result
    driver = _driver()
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        lacking = status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        raise (OutOfDeviceMemory if lacking else CudaError)(
            f"{status.name}: {text.decode() if text else 'unknown error'}"
        )
    if len(values) == 1:
        return values[0]
    return tuple(values) or None


def _allocate(size: int) -> int:
    return int(_check(_driver().cuMemAlloc(size)))


def _ipc_handle(pointer: int) -> bytes:
    return bytes(_check(_driver().cuIpcGetMemHandle(pointer)).reserved)
