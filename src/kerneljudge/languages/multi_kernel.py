"""`multi_kernel` scripts: a Python function that may launch kernels of every kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kerneljudge.languages.base import Language, LoadContext, LoadedKernel, Refusal
from kerneljudge.languages.extensions import intercept_extension_builds
from kerneljudge.languages.python_module import execute, find_callable
from kerneljudge.languages.python_source import PythonSource, refuse_unless_definitions
from kerneljudge.languages.triton_interpreter import prepare_triton
from kerneljudge.schema import KernelCode, KernelType, MultiKernelOptions, Side

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedScript", "MultiKernelLanguage"]


class LoadedScript(LoadedKernel):
    """An entry point, called with the contract's arguments by position."""

    def __init__(self, name: str, entry: Callable[..., Any], device: torch.device) -> None:
        self.name = name
        self._entry = entry
        self._device = device

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Calls the entry point. What it launches through CuPy goes to torch's current stream."""
        # CuPy is the submission's to import, also as late as in its first call.
        cupy = sys.modules.get("cupy")
        if cupy is None or self._device.type != "cuda":
            return self._entry(*arguments)
        import torch

        stream = torch.cuda.current_stream(self._device).cuda_stream
        with cupy.cuda.ExternalStream(stream):
            return self._entry(*arguments)


class MultiKernelLanguage(Language):
    """A script of Triton, CUDA through CuPy or load_inline, and PyTorch, with one entry point.

    The entry point takes all arguments of the contract, meta and output arguments included, by
    position and in the contract's order.
    """

    kernel_type: ClassVar[KernelType] = KernelType.MULTI_KERNEL

    def read(self, kernel: KernelCode, side: Side) -> None:
        """Refuses execution code, test code and relative imports."""
        if kernel.io is None:
            raise Refusal(
                "IOContract is required for multi_kernel type",
                "Give the io_contract of the entry point's arguments in the field `io`.",
            )
        source = PythonSource.parse(kernel.source_code)
        if source is not None:
            refuse_unless_definitions(source)

    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Executes the source and finds the entry point."""
        options = cast(MultiKernelOptions, kernel.options)
        if "triton" in kernel.source_code:
            prepare_triton(context)
        builds = intercept_extension_builds(context)
        module = execute(kernel.source_code, context)
        builds.refuse_device_code()
        entry = find_callable(
            module,
            options.entry_point,
            f"Entry point function '{options.entry_point}' not found in module",
            "Name one of its functions in metadata.entry_point.",
        )
        return LoadedScript(options.entry_point, entry, context.device)
