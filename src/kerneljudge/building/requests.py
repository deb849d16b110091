"""What can be asked of a builder, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from kerneljudge.schema import Closed

__all__ = ["BuildRequest", "BuildResult", "DeviceBuild", "ExtensionBuild"]


def _encodable(text: str) -> str:
    # No file that a compiler reads can hold either; NVRTC would stop reading at a NUL.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be Unicode text without NUL or lone surrogates")
    return text


_Text = Annotated[str, AfterValidator(_encodable)]
_Architecture = Annotated[str, Field(pattern=r"^sm_[0-9]{2,3}[af]?$")]


class DeviceBuild(Closed):
    """Device code alone, to a cubin."""

    kind: Literal["device"] = "device"
    """Which request this is."""
    source: _Text
    """CUDA C++."""
    architecture: _Architecture
    """The target, such as `sm_90`."""
    compiler: Literal["nvrtc", "nvcc"] = "nvrtc"
    """The compiler."""
    options: list[_Text] = Field(default_factory=list)
    """The submitter's options."""
    kernel_name: _Text | None = None
    """The kernel to launch, or a template instance; the first `__global__` if unset."""
    name_expressions: list[_Text] = Field(default_factory=list)
    """Template instances to compile."""


class ExtensionBuild(Closed):
    """A torch C++/CUDA extension, as `torch.utils.cpp_extension.load_inline` takes it."""

    kind: Literal["extension"] = "extension"
    """Which request this is."""
    name: str
    """The module's name."""
    cpp_sources: list[_Text] = Field(default_factory=list)
    """C++ sources."""
    cuda_sources: list[_Text] = Field(default_factory=list)
    """CUDA sources."""
    headers: dict[_Text, _Text] = Field(default_factory=dict)
    """Relative path → text of the submitter's own headers, found by `#include`."""
    separate: bool = False
    """Whether each source is a translation unit of its own, as `load` takes files; else the
    sources of a kind are joined, as `load_inline` does."""
    implicit_headers: bool = True
    """Whether torch's headers are included before the sources, as `load_inline` does."""
    functions: dict[str, str] | None = None
    """C++ function → docstring; null where the source has its own PYBIND11_MODULE."""
    extra_cflags: list[_Text] = Field(default_factory=list)
    """Options for the C++ compiler."""
    extra_cuda_cflags: list[_Text] = Field(default_factory=list)
    """Options for nvcc; on the fast way, those that NVRTC knows."""
    extra_ldflags: list[_Text] = Field(default_factory=list)
    """Options for the linker."""
    extra_include_paths: list[_Text] = Field(default_factory=list)
    """Include folders."""
    architecture: _Architecture
    """The target, such as `sm_90`."""
    preference: Literal["auto", "fast", "nvcc"] = "auto"
    """Which way to build; see `TorchCudaOptions.build`."""


BuildRequest = DeviceBuild | ExtensionBuild


class BuildResult(Closed):
    """What became of a build. Paths are those of the process that reads it."""

    ok: bool
    """Whether there are artefacts."""
    way: Literal["nvrtc", "nvcc", "fast"]
    """How it was compiled."""
    reason: str | None = None
    """Why this way."""
    artefacts: dict[str, Path] = Field(default_factory=dict)
    """Role (`cubin`, `library`…) → file."""
    manifest: dict[str, Any] = Field(default_factory=dict)
    """What a loader needs to know of them: entry names, signatures."""
    log: str = ""
    """Warnings, or the errors where it is not ok."""
    hint: str | None = None
    """How to mend a failure."""
    fault: Literal["compile_error", "timeout", "out_of_memory", "unavailable"] | None = None
    """How it failed; `unavailable`: this machine lacks the compiler."""
    cached: bool = False
    """Whether it came from the cache."""
    seconds: float = 0.0
    """Time spent building, 0 from the cache."""
