"""`cuda` kernels: one `__global__` function, compiled to a cubin and launched from the contract.

No host code of the submitter exists: the source is read by a device compiler alone, and what is
loaded is a cubin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kerneljudge.building.requests import BuildRequest, BuildResult, DeviceBuild
from kerneljudge.contract import IOContract, LaunchConfig, LaunchDim, require_launch
from kerneljudge.languages.base import (
    Language,
    LoadContext,
    LoadedKernel,
    LoadError,
    Refusal,
    Unsupported,
)
from kerneljudge.languages.cuda_arguments import ArgumentBuffer
from kerneljudge.languages.cuda_source import CudaSource
from kerneljudge.schema import CudaOptions, KernelCode, KernelType, Side

if TYPE_CHECKING:
    import torch

__all__ = ["CudaLanguage", "LoadedCuda"]

_DEFAULT_BLOCK = LaunchDim(x=256)

_STATIC_LIMIT = 48 * 1024
"""Bytes of shared memory that a kernel may use without asking (CUDA C++ Programming Guide,
compute capabilities: maximum amount of shared memory per thread block)."""


class LoadedCuda(LoadedKernel):
    """A kernel of a loaded cubin, with its launch configuration and parameter buffer."""

    def __init__(
        self,
        name: str,
        cubin: bytes,
        entry: str,
        contract: IOContract,
        launch: LaunchConfig,
        source: CudaSource | None,
        device: torch.device,
    ) -> None:
        from cuda.bindings import driver

        self.name = name
        self._device = device
        self._cubin = cubin  # the module may refer to the image
        self._grid = _extents(launch.grid)
        self._block = _extents(launch.block or _DEFAULT_BLOCK)
        self._shared = launch.shared_memory or 0
        self._passed = [
            index for index, argument in enumerate(contract.args) if not argument.is_meta
        ]
        _use_primary_context(device)
        self._module = _call(driver.cuModuleLoadData, cubin, what="loading the cubin")
        self._function = _call(
            driver.cuModuleGetFunction, self._module, entry.encode(), what=f"finding {entry}"
        )
        sizes = _parameter_sizes(self._function)
        self._arguments = ArgumentBuffer(
            name,
            [contract.args[index] for index in self._passed],
            sizes,
            None if source is None else source.parameters(name, len(sizes)),
        )
        self._check_block()
        self._reserve_shared_memory()

    def close(self) -> None:
        """Unloads the module, with its code and its global variables."""
        from cuda.bindings import driver

        _call(driver.cuModuleUnload, self._module, what="unloading the cubin")

    def __call__(self, arguments: Sequence[Any]) -> None:
        """Launches the kernel; it writes into the contract's output tensors."""
        import torch
        from cuda.bindings import driver

        self._arguments.fill([arguments[index] for index in self._passed])
        _call(
            driver.cuLaunchKernel,
            self._function,
            *self._grid,
            *self._block,
            self._shared,
            torch.cuda.current_stream(self._device).cuda_stream,
            self._arguments.address,
            0,
            what=f"launching {self.name}",
        )

    def _attribute(self, name: str) -> int:
        from cuda.bindings import driver

        attribute = getattr(driver.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")
        return int(
            _call(driver.cuFuncGetAttribute, attribute, self._function, what=f"asking for {name}")
        )

    def _check_block(self) -> None:
        x, y, z = self._block
        limit = self._attribute("MAX_THREADS_PER_BLOCK")
        if x * y * z > limit:
            raise LoadError(
                f"launch.block {x} x {y} x {z} is {x * y * z} threads, and kernel '{self.name}' "
                f"can run at most {limit} ({self._attribute('NUM_REGS')} registers a thread)",
                "Use a smaller block, or raise the limit with __launch_bounds__.",
            )

    def _reserve_shared_memory(self) -> None:
        import torch
        from cuda.bindings import driver

        static = self._attribute("SHARED_SIZE_BYTES")
        limit = int(
            _call(
                driver.cuDeviceGetAttribute,
                driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                _device_handle(self._device),
                what="asking for the limit of shared memory",
            )
        )
        if static + self._shared > limit:
            raise LoadError(
                f"launch.shared_memory is {self._shared} bytes"
                + (f" beside {static} static ones" if static else "")
                + f", and a block on {torch.cuda.get_device_name(self._device)} has at most "
                f"{limit} bytes",
                "Use smaller tiles, or fewer stages.",
            )
        if self._shared and static + self._shared > _STATIC_LIMIT:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _call(
                driver.cuFuncSetAttribute,
                self._function,
                attribute,
                self._shared,
                what=f"reserving {self._shared} bytes of shared memory",
            )


class CudaLanguage(Language):
    """Raw CUDA C++: one kernel, launched as the contract says.

    Tensors are passed as pointers, scalars by the width of the parameter (or the argument's
    dtype), meta arguments not at all. `launch.block` defaults to 256 threads along x.
    """

    kernel_type: ClassVar[KernelType] = KernelType.CUDA

    def read(self, kernel: KernelCode, side: Side) -> None:
        """Refuses Python, `main`, host code and a source without `__global__` function."""
        _require_contract(kernel)
        source = CudaSource.parse(kernel.source_code)
        if source is not None:
            source.refuse_unless_kernels()

    def builds(self, kernel: KernelCode, architecture: str) -> list[BuildRequest]:
        """One cubin."""
        options = cast(CudaOptions, kernel.options)
        return [
            DeviceBuild(
                source=kernel.source_code,
                architecture=architecture,
                compiler=options.backend,
                options=options.compiler_options,
                kernel_name=options.kernel_name,
                name_expressions=options.name_expressions,
            )
        ]

    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Loads the cubin of `context.built[0]` and prepares the launch.

        Raises `Unsupported` on a device that is no CUDA device.
        """
        contract, launch = _require_contract(kernel)
        built = context.built[0]
        if not built.ok:
            raise LoadError(built.log or "The kernel was not compiled", built.hint)
        if context.device.type != "cuda":
            architecture = built.manifest.get("architecture", "another device")
            raise Unsupported(
                f"compiled to a cubin for {architecture}; this device ({context.device.type}) "
                "cannot run it",
                "Submit it to a server with an NVIDIA GPU.",
            )
        name, entry = _names(built)
        return LoadedCuda(
            name,
            built.artefacts["cubin"].read_bytes(),
            entry,
            contract,
            launch,
            CudaSource.parse(kernel.source_code),
            context.device,
        )


def _names(built: BuildResult) -> tuple[str, str]:
    entry = str(built.manifest["entry"])
    return str(built.manifest.get("kernel_name") or entry), entry


def _require_contract(kernel: KernelCode) -> tuple[IOContract, LaunchConfig]:
    if kernel.io is None:
        raise Refusal(
            "IOContract is required for cuda type",
            "Give the io_contract of the kernel's arguments in the field `io`.",
        )
    try:
        require_launch(kernel.io, kernel.kernel_type.value)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        raise Refusal(message, hint) from None
    assert kernel.io.launch is not None
    return kernel.io, kernel.io.launch


def _extents(extents: LaunchDim | None) -> tuple[int, int, int]:
    assert extents is not None  # _require_contract
    return extents.xyz


def _call(function: Any, *arguments: Any, what: str) -> Any:
    """Calls the driver; RuntimeError with CUDA's name and text where it does not succeed."""
    from cuda.bindings import driver

    error, *results = function(*arguments)
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise RuntimeError(
            f"{error.name}: {text.decode() if text else 'unknown error'}, while {what}"
        )
    return results[0] if results else None


def _parameter_sizes(function: Any) -> list[int]:
    """Bytes of each parameter, in order (cuFuncGetParamInfo, CUDA 12.4 and newer)."""
    from cuda.bindings import driver

    sizes: list[int] = []
    while True:
        error, _, size = driver.cuFuncGetParamInfo(function, len(sizes))
        if error == driver.CUresult.CUDA_ERROR_INVALID_VALUE:
            return sizes
        if error != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{error.name}, while asking for parameter {len(sizes)}")
        sizes.append(int(size))


def _device_handle(device: torch.device) -> Any:
    from cuda.bindings import driver

    return _call(driver.cuDeviceGet, _index(device), what=f"opening {device}")


def _use_primary_context(device: torch.device) -> None:
    """Makes the context that torch uses, the device's primary one, current on this thread."""
    import torch

    torch.cuda.set_device(_index(device))
    torch.cuda.synchronize()


def _index(device: torch.device) -> int:
    import torch

    # torch's annotations leave out that a device may have no index.
    index = cast("int | None", device.index)
    return torch.cuda.current_device() if index is None else index
