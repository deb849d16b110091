"""NVRTC: CUDA C++ to a cubin, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kerneljudge.building.process import bounded

__all__ = ["Compiled", "compile_cubin"]

_PROGRAM = b"kernel.cu"


@dataclass(frozen=True)
class Compiled:
    """What NVRTC answered."""

    cubin: bytes | None
    """The image; None where it failed."""
    log: str
    """Warnings or errors."""
    lowered: dict[str, str] = field(default_factory=dict)
    """Name expression → mangled name."""
    out_of_memory: bool = False
    """Whether it failed for want of memory."""


def compile_cubin(
    source: str,
    options: Sequence[str],
    names: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Compiled:
    """Compiles `source`; `names` are the name expressions whose mangled names are wanted.

    `headers` are found by `#include` before any folder. The log is bounded.
    """
    from cuda.bindings import nvrtc

    success = nvrtc.nvrtcResult.NVRTC_SUCCESS
    headers = headers or {}
    error, program = nvrtc.nvrtcCreateProgram(
        source.encode(),
        _PROGRAM,
        len(headers),
        [text.encode() for text in headers.values()],
        [name.encode() for name in headers],
    )
    if error != success:
        return Compiled(None, f"nvrtcCreateProgram: {error.name}")
    try:
        for name in names:
            (error,) = nvrtc.nvrtcAddNameExpression(program, name.encode())
            if error != success:
                return Compiled(None, f"name expression {name!r}: {error.name}")
        (failed,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        log = _log(program)
        if failed != success:
            memory = failed == nvrtc.nvrtcResult.NVRTC_ERROR_OUT_OF_MEMORY
            return Compiled(None, log or failed.name, out_of_memory=memory)
        lowered = {}
        for name in names:
            error, mangled = nvrtc.nvrtcGetLoweredName(program, name.encode())
            if error != success:
                return Compiled(None, f"name expression {name!r}: {error.name}\n{log}")
            lowered[name] = mangled.decode()
        error, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin = b" " * size
        if error == success:
            (error,) = nvrtc.nvrtcGetCUBIN(program, cubin)
        if error != success or not size:
            return Compiled(None, f"nvrtcGetCUBIN: {error.name}\n{log}")
        return Compiled(cubin, log, lowered)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(program: object) -> str:
    from cuda.bindings import nvrtc

    error, size = nvrtc.nvrtcGetProgramLogSize(program)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS or size <= 1:
        return ""
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    return bounded(log.rstrip(b"\0").decode(errors="replace").strip())
