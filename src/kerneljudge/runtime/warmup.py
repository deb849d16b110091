"""What every kernel needs of a device, done before the kernel is known.

Opening a CUDA context takes about 0.25 s, the first cuBLAS call 0.07 s, the first Triton launch
0.5 s, on an H200: paid here, in standby runners, they are not part of any job.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from kerneljudge.runtime.memory import export, supports_ipc

__all__ = ["close_nvml", "warm"]


def warm(device: torch.device, triton_seed: Path) -> None:
    """Opens the device in this process, and has its libraries initialise themselves.

    `triton_seed` is the Triton cache for this package's own kernel, which is compiled into it if
    it is not there.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    # An allocation and a product of the common dtypes: context, kernels, cuBLAS.
    for dtype in (torch.float32, torch.float16):
        square = torch.ones(16, 16, device=device, dtype=dtype)
        torch.mm(square, square)
    torch.manual_seed(0)
    torch.randn(16, device=device)
    if "triton" in sys.modules:
        _warm_triton(device, triton_seed)
    _open_nvml()
    # The first call of the driver's bindings takes 10 ms.
    if supports_ipc(device) is None:
        export(torch.empty(1, device=device))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()


def _warm_triton(device: torch.device, seed: Path) -> None:
    """Compiles or loads one kernel and launches it, which loads the driver's launch stub."""
    cache = os.environ["TRITON_CACHE_DIR"]
    os.environ["TRITON_CACHE_DIR"] = str(seed)
    from kerneljudge.runtime.triton_warmup import increment

    increment[(1,)](torch.zeros(64, device=device), 64, BLOCK=64)
    os.environ["TRITON_CACHE_DIR"] = cache


def close_nvml() -> None:
    """Closes NVML where an import has opened it, before a process is forked from.

    torch asks it for GPUs and leaves it open, with a thread of its own; a forked process cannot
    use what its parent has opened.
    """
    library = _nvml()
    if library is not None:
        while library.nvmlShutdown() == 0:
            pass


def _open_nvml() -> None:
    """Opens NVML, which torch asks how much memory there is when an allocation fails, and which
    cannot be opened any more inside the sandbox."""
    library = _nvml()
    if library is not None:
        library.nvmlInit_v2()


def _nvml() -> ctypes.CDLL | None:
    """The driver's library; None without a driver. torch then does without its figures as well."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
