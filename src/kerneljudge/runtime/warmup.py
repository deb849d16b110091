"""What every kernel needs of a device, done before the kernel is known.

Opening a CUDA context takes about 0.06 s, and as long again for each that is opened beside it, on
whatever GPU of the machine; the driver itself 0.02 s, the first products by cuBLAS 0.1 s, the first
Triton launch 0.1 s, on an H200: paid here, in standby runners, they are not part of any job.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from kerneljudge.runtime.memory import export, supports_ipc
from kerneljudge.runtime.messages import Preparation
from kerneljudge.timing.clocks import measure

__all__ = ["close_nvml", "open_driver", "steps"]


def open_driver(preparation: Preparation) -> None:
    """Initialises CUDA's driver in this process, which disturbs no other.

    Each hardware queue of a context takes the driver time to make and to destroy, during which
    it makes no other: 8, as by default, 0.1 s in all, one 0.03 s, on an H200. One is all that a
    single stream uses. The clocks are raised by the judge's context, as long as it lives.
    """
    os.environ["CUDA_DISABLE_PERF_BOOST"] = "1"
    if preparation != "streams":
        os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    status = ctypes.CDLL("libcuda.so.1").cuInit(0)
    if status:
        raise RuntimeError(f"cuInit failed with error {status}")


def steps(
    device: torch.device, preparation: Preparation, triton_seed: Path
) -> list[Callable[[], None]]:
    """What is to be done in turn, each short, and each a disturbance to what is being measured.

    `triton_seed` is the Triton cache for this package's own kernel, which is compiled into it if
    it is not there.
    """
    todo: list[Callable[[], None]] = [
        partial(_open_context, device),
        partial(_launch, device),
    ]
    if preparation != "launches":
        todo += [partial(_multiply, device, dtype) for dtype in (torch.float32, torch.float16)]
    if "triton" in sys.modules:
        todo.append(partial(_launch_triton, device, triton_seed))
    todo += [partial(_time, device), partial(_share, device)]
    return todo


def _open_context(device: torch.device) -> None:
    torch.cuda.set_device(device)
    torch.cuda.synchronize(device)


def _launch(device: torch.device) -> None:
    """Loads torch's own kernels."""
    torch.ones(16, device=device)
    torch.cuda.synchronize(device)


def _multiply(device: torch.device, dtype: torch.dtype) -> None:
    """The common operators: kernels of torch's own, and cuBLAS."""
    square = torch.ones(16, 16, device=device, dtype=dtype)
    torch.mm(square, square)
    torch.manual_seed(0)
    torch.randn(16, device=device)
    torch.cuda.synchronize(device)


def _launch_triton(device: torch.device, seed: Path) -> None:
    """Compiles or loads one kernel and launches it, which loads the driver's launch stub."""
    cache = os.environ["TRITON_CACHE_DIR"]
    os.environ["TRITON_CACHE_DIR"] = str(seed)
    from kerneljudge.runtime.triton_warmup import increment

    increment[(1,)](torch.zeros(64, device=device), 64, BLOCK=64)
    os.environ["TRITON_CACHE_DIR"] = cache
    torch.cuda.synchronize(device)


def _time(device: torch.device) -> None:
    """The first graph of a process has the driver allocate memory some forty times."""
    square = torch.ones(16, device=device)
    measure([lambda: square.fill_(1)], device=device, warmup=1, samples=1)


def _share(device: torch.device) -> None:
    """The first call of the driver's bindings takes 10 ms."""
    _open_nvml()
    if supports_ipc(device) is None:
        export(torch.empty(1, device=device))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()


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
