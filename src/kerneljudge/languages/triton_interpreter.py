"""Triton's interpreter where there is no GPU: what asks Triton's driver finds the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kerneljudge.languages.base import LoadContext

__all__ = ["prepare_triton"]


def prepare_triton(context: LoadContext) -> None:
    """Gives Triton a driver for the host, if it interprets for a device that is no GPU.

    The interpreter itself needs none, but an autotuner asks the driver how to time its configs,
    and kernels ask it for their target, and without a GPU Triton has none to ask.
    """
    if context.device.type == "cuda":
        return
    import triton

    if triton.knobs.runtime.interpret:
        triton.runtime.driver.set_active(_host_driver())


def _host_driver() -> Any:
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    class HostDriver(DriverBase):  # type: ignore[misc]
        """The CPU, as far as the interpreter goes."""

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            raise NotImplementedError("the interpreter compiles nothing")

        def get_current_target(self) -> Any:
            return GPUTarget("cpu", 0, 1)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_device_interface(self) -> Any:
            return torch.cpu

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_benchmarker(self) -> Callable[..., list[float]]:
            return _time_once

    return HostDriver()


def _time_once(
    kernel_call: Callable[[], Any], *, quantiles: Sequence[float], **_: Any
) -> list[float]:
    """Milliseconds of one call by the host's clock, for every quantile asked for."""
    started = time.perf_counter()
    kernel_call()
    return [1e3 * (time.perf_counter() - started)] * len(quantiles)
