"""A kernel as it is submitted: source, type, contract and options."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from kerneljudge.contract import IOContract, require_launch
from kerneljudge.schema.base import Closed, Open

__all__ = [
    "CudaOptions",
    "KernelCode",
    "KernelOptions",
    "KernelType",
    "MultiKernelOptions",
    "Side",
    "SourceCode",
    "TorchCudaOptions",
    "TorchOptions",
    "TritonOptions",
]


_MAX_METADATA: Final = 64 * 1024

Side = Literal["reference", "candidate"]
"""Which of a comparison's kernels; the sole one of an evaluation is its candidate."""


class KernelType(StrEnum):
    """The five ways of writing a kernel that the judge reads."""

    TORCH = "torch"
    TORCH_CUDA = "torch_cuda"
    TRITON = "triton"
    CUDA = "cuda"
    MULTI_KERNEL = "multi_kernel"


class TorchOptions(Open):
    """Metadata of a `torch` kernel. `function_name` wins over class and method."""

    function_name: str | None = None
    """A module-level function to call."""
    class_name: str | None = None
    """The class to instantiate; `Model` (for a candidate, `ModelNew` first) if unset."""
    method_name: str | None = None
    """The method to call on the instance; `forward` if unset."""
    mode: Literal["train", "eval"] | None = None
    """Calls `.train()` or `.eval()` on a module; unset leaves what the constructor left."""


class TorchCudaOptions(TorchOptions):
    """Metadata of a `torch_cuda` kernel: the class is `ModelNew` unless named otherwise."""

    build: Literal["auto", "fast", "nvcc"] = "auto"
    """`fast`: NVRTC and g++ only, an error where that is impossible; `nvcc`: as torch builds;
    `auto`: fast where it is faithful, else nvcc, and the result says why."""


class TritonOptions(Open):
    """Metadata of a `triton` kernel."""

    kernel_name: str | None = None
    """The `@triton.jit` function to launch; the first in the source if unset."""


class CudaOptions(Open):
    """Metadata of a `cuda` kernel."""

    kernel_name: str | None = None
    """The `__global__` function to launch; the first in the source if unset. A template is named
    with its arguments, as in `scale<float>`."""
    compiler_options: list[str] = Field(default_factory=list)
    """Options for the compiler, such as `--use_fast_math` or `-DTILE=32`."""
    backend: Literal["nvrtc", "nvcc"] = "nvrtc"
    """The compiler."""
    name_expressions: list[str] = Field(default_factory=list)
    """Template instances to compile, such as `scale<float>`."""
    jitify: bool = False
    """Accepted for compatibility; the C++ standard headers of NVRTC need no jitify."""


class MultiKernelOptions(Open):
    """Metadata of a `multi_kernel` script."""

    entry_point: str
    """The function to call with the contract's arguments, in order."""
    description: str | None = None
    """Free text."""


KernelOptions = TorchOptions | TorchCudaOptions | TritonOptions | CudaOptions | MultiKernelOptions

_OPTIONS: dict[KernelType, type[KernelOptions]] = {
    KernelType.TORCH: TorchOptions,
    KernelType.TORCH_CUDA: TorchCudaOptions,
    KernelType.TRITON: TritonOptions,
    KernelType.CUDA: CudaOptions,
    KernelType.MULTI_KERNEL: MultiKernelOptions,
}

_REQUIRES_CONTRACT = {
    KernelType.TRITON: "IOContract is required for Triton",
    KernelType.CUDA: "IOContract is required for cuda type",
    KernelType.MULTI_KERNEL: "IOContract is required for multi_kernel type",
}


def _encodable(source: str) -> str:
    # JSON can carry both; no file that a compiler reads can.
    if "\0" in source or any("\ud800" <= character <= "\udfff" for character in source):
        raise ValueError("source_code must be Unicode text without NUL or lone surrogates")
    return source


def _short(metadata: dict[str, Any]) -> dict[str, Any]:
    # Every listing carries it. Stops writing at the bound, however long it is.
    size = 0
    for piece in json.JSONEncoder(default=str, skipkeys=True).iterencode(metadata):
        size += len(piece)
        if size > _MAX_METADATA:
            raise ValueError(
                f"metadata has more than {_MAX_METADATA} characters as JSON: keep what is long, "
                "and send its name or its digest"
            )
    return metadata


SourceCode = Annotated[str, Field(min_length=1), AfterValidator(_encodable)]
"""The source of a kernel."""


class KernelCode(Closed):
    """One kernel: its source, what kind of source that is, and what it takes and returns."""

    source_code: SourceCode
    """The whole source, self-contained."""
    kernel_type: KernelType
    """How to read the source."""
    io: IOContract | None = None
    """The contract of inputs and outputs (the io_contract); required for `triton`, `cuda` and
    `multi_kernel`, optional for the others, which may define `get_inputs()` instead."""
    metadata: Annotated[dict[str, Any], AfterValidator(_short)] | None = None
    """Options of the kernel type, and any keys of the user's own, which come back untouched; at
    most 64 KiB as JSON."""

    @model_validator(mode="after")
    def _complete(self) -> KernelCode:
        if self.kernel_type is KernelType.MULTI_KERNEL and not (self.metadata or {}).get(
            "entry_point"
        ):
            raise ValueError(
                "entry_point must be specified in metadata: name the function to call, as in "
                '{"entry_point": "run"}'
            )
        message = _REQUIRES_CONTRACT.get(self.kernel_type)
        if message is not None and self.io is None:
            raise ValueError(f"{message}: give the io_contract of its arguments in the field `io`")
        if self.io is not None:
            require_launch(self.io, self.kernel_type.value)
        _ = self.options
        return self

    @property
    def options(self) -> KernelOptions:
        """The metadata, read by the model that belongs to the kernel type."""
        return _OPTIONS[self.kernel_type].model_validate(self.metadata or {})
