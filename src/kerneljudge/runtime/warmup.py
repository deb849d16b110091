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

__all__ = ["warm"]


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
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()


def _warm_triton(device: torch.device, seed: Path) -> None:
    """Compiles or loads one kernel and launches it, which loads the driver's launch stub."""
    cache = os.environ["TRITON_CACHE_DIR"]
    os.environ["TRITON_CACHE_DIR"] = str(seed)
    from kerneljudge.runtime.triton_warmup import increment

    increment[(1,)](torch.zeros(64, device=device), 64, BLOCK=64)
    os.environ["TRITON_CACHE_DIR"] = cache


def _open_nvml() -> None:
    """Opens NVML, which torch asks how much memory there is when an allocation fails, and which
    cannot be opened any more inside the sandbox."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        # Without the library torch reports an allocation that fails without those figures.
        return
    library.nvmlInit_v2()
