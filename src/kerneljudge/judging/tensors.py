"""Tensors between the judge and its runners: where they lie, and how they come back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from kerneljudge.judging.processes import RunnerFault, RunnerProcess
from kerneljudge.runtime.memory import (
    CudaError,
    DeviceRegion,
    HostRegion,
    ImportedAllocations,
    OwnedRegion,
    dtype_of,
    layout,
    supports_ipc,
)
from kerneljudge.runtime.messages import Collect, Collected
from kerneljudge.runtime.values import TensorMeta
from kerneljudge.schema import FaultKind

__all__ = ["Transport", "TransportName", "choose_transport", "poison"]

TransportName = Literal["cuda_ipc", "shared_memory", "host_staging"]


def choose_transport(device: torch.device) -> tuple[TransportName, str | None]:
    """How tensors cross on this device, and why not the better way."""
    if device.type != "cuda":
        return "shared_memory", None
    reason = supports_ipc(device)
    return ("cuda_ipc", None) if reason is None else ("host_staging", f"CUDA IPC: {reason}")


class Transport:
    """The tensors that cross between the judge and one runner."""

    def __init__(
        self,
        runner: RunnerProcess,
        device: torch.device,
        name: TransportName,
    ) -> None:
        self.staging_reason: str | None = None
        """Why results are staged through the host, where they were to cross by handle."""
        self._runner = runner
        self._device = device
        self._name = name
        self._imported = ImportedAllocations(device)
        self._regions: list[OwnedRegion] = []

    def region(self, size: int) -> OwnedRegion:
        """Memory that the judge owns and this runner may open, until `close`."""
        region = self._new_region(size, self._name)
        self._regions.append(region)
        return region

    def collect(
        self, metas: Sequence[TensorMeta], deadline: float, max_bytes: int
    ) -> list[torch.Tensor]:
        """Copies of the tensors that the runner's last answer counted, on the judge's device.

        Raises `RunnerFault` if they cannot be had, are not what was announced, or are too large.
        """
        if not metas:
            return []
        try:
            specs = [(dtype_of(meta.dtype), meta.shape, None) for meta in metas]
        except ValueError as error:
            raise RunnerFault(FaultKind.RUNTIME_ERROR, str(error)) from error
        if any(math.prod(max(1, size) for size in meta.shape) >= 2**63 for meta in metas):
            raise RunnerFault(FaultKind.PROTOCOL_ERROR, "a shape that no tensor can have")
        placements, size = layout(specs)
        if size > max_bytes:
            raise RunnerFault(
                FaultKind.OUT_OF_MEMORY,
                f"the kernel returned {size / 2**30:.1f} GiB; there is room for"
                f" {max_bytes / 2**30:.1f} GiB",
            )
        if self._name == "cuda_ipc":
            answer = self._runner.ask(Collect, Collected, deadline=deadline, region=None)
            if answer.failure is None:
                return self._import(metas, answer)
            self.staging_reason = f"exporting the kernel's results failed: {answer.failure}"
            self._name = "host_staging"
        region = self._new_region(size, self._name)
        try:
            self._runner.ask(
                Collect,
                Collected,
                deadline=deadline,
                descriptors=region.descriptors,
                region=region.region,
                placements=placements,
            )
            return [
                region.tensor(placement).to(self._device, copy=True) for placement in placements
            ]
        finally:
            region.close()

    def _import(self, metas: Sequence[TensorMeta], answer: Collected) -> list[torch.Tensor]:
        if len(answer.exports) != len(metas):
            raise RunnerFault(
                FaultKind.PROTOCOL_ERROR,
                f"the runner exported {len(answer.exports)} tensors of {len(metas)}",
            )
        copies = []
        try:
            for meta, exported in zip(metas, answer.exports, strict=True):
                dtype = dtype_of(meta.dtype)
                if 0 in meta.shape:
                    copies.append(torch.empty(meta.shape, dtype=dtype, device=self._device))
                    continue
                view = self._imported.tensor(exported, dtype, meta.shape)
                copies.append(view.clone(memory_format=torch.contiguous_format))
        except (ValueError, CudaError) as error:
            raise RunnerFault(
                FaultKind.PROTOCOL_ERROR, f"a result cannot be read: {error}"
            ) from error
        torch.cuda.synchronize(self._device)
        return copies

    def _new_region(self, size: int, name: TransportName) -> OwnedRegion:
        if name == "cuda_ipc":
            return DeviceRegion(size, self._device)
        return HostRegion(size, name)

    @property
    def regions(self) -> int:
        """How many there are."""
        return len(self._regions)

    @property
    def shared_bytes(self) -> int:
        """What they take of memory."""
        return sum(region.region.size for region in self._regions)

    def rest(self) -> None:
        """Closes what was imported, before the runner frees it; regions stay."""
        self._imported.close()

    def close(self) -> None:
        """Gives back every region and closes what was imported."""
        self._imported.close()
        for region in self._regions:
            region.close()
        self._regions.clear()


def poison(tensor: torch.Tensor, trial: int) -> None:
    """Fills an output with what no kernel leaves by accident: NaN, or a pattern of bits.

    Bools have no third value; they alternate from trial to trial.
    """
    if tensor.dtype is torch.bool:
        tensor.fill_(trial % 2 == 0)
    elif tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
        tensor.fill_(float("nan"))
    elif tensor.dtype.is_floating_point:
        # All bits set is NaN in both 8-bit formats; torch fills neither of them.
        tensor.view(torch.uint8).fill_(0xFF)
    elif tensor.dtype.is_complex:
        tensor.fill_(complex("nan+nanj"))
    else:
        tensor.fill_(0x5A)
