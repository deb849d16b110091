"""Device code alone: CUDA C++ to a cubin, by NVRTC or nvcc."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building.cuda_source import Joined, Kernel, SplitSource, Unfaithful, split
from kerneljudge.building.device_source import compile_device_source
from kerneljudge.building.flags import CudaFlags, FlagError, cuda_flags
from kerneljudge.building.lexer import code_only
from kerneljudge.building.process import bounded, run
from kerneljudge.building.requests import BuildResult, DeviceBuild
from kerneljudge.building.symbols import base_name, kernels
from kerneljudge.building.toolchain import Toolchain

__all__ = ["build_device"]

_LABEL = "source"
_STANDARD = "c++17"
"""What both compilers default to (CUDA 13)."""
_STD_MEMBER = re.compile(rb"\bstd\s*::\s*(\w+)")
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_KERNEL = re.compile(r"\b__global__\b[^;{}()]*(?:\([^()]*\)[^;{}()]*)?\b([A-Za-z_]\w*)\s*\(")
_NAME = re.compile(r"(?:::)?[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*")


class _Failure(Exception):
    def __init__(self, message: str, hint: str | None = None, *, fault: str = "compile_error"):
        super().__init__(message)
        self.hint = hint
        self.fault = fault


@dataclass(frozen=True)
class _Source:
    """The device code of a source, and the kernels in it."""

    text: str
    """What the compiler reads."""
    kernels: list[Kernel]
    includes: set[str]
    std: set[str]


def build_device(request: DeviceBuild, *, scratch: Path, toolchain: Toolchain) -> BuildResult:
    """Compiles device code. Never raises for the submitter's mistakes.

    The manifest of a success has `entry`, the mangled name of the kernel to launch; `kernel_name`,
    what the source calls it; `kernels`, name → mangled name of every kernel in the cubin; and
    `architecture`.
    """
    try:
        flags = cuda_flags([option.strip() for option in request.options if option.strip()])
        architecture = flags.target(request.architecture)
        if architecture is None:
            raise _Failure(
                f"option {flags.architectures[0]!r}: names no machine code that runs on "
                f"{request.architecture}",
                "Remove the option: the judge compiles for its own device.",
            )
        source = _read(request.source)
        wanted = _kernel_name(request, source)
        if request.compiler == "nvrtc":
            cubin, log, names = _by_nvrtc(request, source, wanted, flags, architecture, toolchain)
        else:
            cubin, log, names = _by_nvcc(
                request, source, wanted, flags, architecture, toolchain, scratch
            )
    except FlagError as error:
        return _failed(request, _Failure(str(error), error.hint))
    except _Failure as error:
        return _failed(request, error)
    path = scratch / "kernel.cubin"
    path.write_bytes(cubin)
    found = {base_name(entry): entry for entry in kernels(cubin)}
    return BuildResult(
        ok=True,
        way=request.compiler,
        artefacts={"cubin": path},
        manifest={
            "entry": names[wanted],
            "kernel_name": wanted,
            "kernels": found | names,
            "architecture": architecture,
            "depends_on_other_files": bool(flags.host.folders),
        },
        log=log,
    )


def _failed(request: DeviceBuild, failure: _Failure) -> BuildResult:
    return BuildResult.model_validate(
        {
            "ok": False,
            "way": request.compiler,
            "log": bounded(str(failure)),
            "hint": failure.hint,
            "fault": failure.fault,
        }
    )


def _read(text: str) -> _Source:
    """The source's device half, or all of it where it cannot be split."""
    joined = Joined(((_LABEL, text.replace("\r\n", "\n")),))
    bare = code_only(joined.code)
    try:
        found: SplitSource = split(joined)
    except Unfaithful:
        names = dict.fromkeys(_KERNEL.findall(bare.decode(errors="replace")))
        return _Source(
            joined.with_lines(joined.code),
            [Kernel(index, name, False, True) for index, name in enumerate(names)],
            {name.decode(errors="replace") for name in _INCLUDE.findall(joined.code)},
            {name.decode() for name in _STD_MEMBER.findall(bare)},
        )
    return _Source(found.device, found.kernels, found.device_headers, found.device_std)


def _kernel_name(request: DeviceBuild, source: _Source) -> str:
    """The name expression of the kernel to launch."""
    names = [kernel.name for kernel in source.kernels]
    if not names:
        raise _Failure(
            "No __global__ functions found",
            "Define the kernel as `__global__ void name(...)`.",
        )
    asked = (request.kernel_name or "").strip()
    if asked:
        base = asked.partition("<")[0].strip()
        kernel = _find(source, base)
        if kernel is None:
            raise _Failure(
                f"kernel {asked!r} is not defined in the source",
                f"The source defines {', '.join(dict.fromkeys(names))}.",
            )
        if "<" in asked:
            return asked
    else:
        kernel = source.kernels[0]
    if not kernel.is_template:
        return asked or kernel.name
    for expression in request.name_expressions:
        if _find(source, expression.partition("<")[0].strip()) == kernel:
            return expression.strip()
    raise _Failure(
        f"kernel {kernel.name!r} is a template: no instance of it is named",
        f"Set metadata.kernel_name, or name_expressions, to an instance such as "
        f"`{kernel.name}<float>`.",
    )


def _find(source: _Source, name: str) -> Kernel | None:
    """A kernel by its name, which may lack its namespaces."""
    name = name.removeprefix("::")
    for kernel in source.kernels:
        if kernel.name == name:
            return kernel
    for kernel in source.kernels:
        if kernel.name.endswith(f"::{name}"):
            return kernel
    return None


def _expressions(request: DeviceBuild, source: _Source, wanted: str) -> dict[str, str]:
    """What was asked for → its name expression, with namespaces."""
    found = {}
    for asked in dict.fromkeys([wanted, *(name.strip() for name in request.name_expressions)]):
        base, bracket, rest = asked.partition("<")
        if not _NAME.fullmatch(base.strip()):
            raise _Failure(f"{asked!r} is no name of a kernel, such as `scale<float>`")
        kernel = _find(source, base.strip())
        found[asked] = (kernel.name if kernel else base.strip()) + bracket + rest
    return found


def _by_nvrtc(
    request: DeviceBuild,
    source: _Source,
    wanted: str,
    flags: CudaFlags,
    architecture: str,
    toolchain: Toolchain,
) -> tuple[bytes, str, dict[str, str]]:
    _require(toolchain.missing_for_nvrtc())
    if flags.only_nvcc is not None:
        raise _Failure(
            f"option {flags.only_nvcc!r}: not an option of NVRTC",
            "Remove the option, or set metadata.backend to nvcc.",
        )
    expressions = _expressions(request, source, wanted)
    options = [
        f"-arch={architecture}",
        *flags.nvrtc,
        *(f"-I{folder}" for folder in toolchain.device_includes),
    ]
    done, _ = compile_device_source(
        source.text,
        [*expressions.values()],
        options,
        includes=source.includes,
        std=source.std,
        as_nvcc=False,
    )
    if done.cubin is None:
        raise _Failure(done.log, fault="out_of_memory" if done.out_of_memory else "compile_error")
    names = {asked: done.lowered[name] for asked, name in expressions.items()}
    return done.cubin, done.log, names


def _by_nvcc(
    request: DeviceBuild,
    source: _Source,
    wanted: str,
    flags: CudaFlags,
    architecture: str,
    toolchain: Toolchain,
    scratch: Path,
) -> tuple[bytes, str, dict[str, str]]:
    _require(toolchain.missing_for_nvcc())
    assert toolchain.nvcc is not None
    assert toolchain.cxx is not None
    expressions = _expressions(request, source, wanted)
    # A template that nothing refers to has no instances.
    uses = "".join(
        f"[[maybe_unused]] constexpr auto use{index} = &::{name.removeprefix('::')};\n"
        for index, name in enumerate(expressions.values())
        if "<" in name
    )
    text = source.text
    if uses:
        text += f'#line 1 "name_expressions"\nnamespace kerneljudge_uses {{\n{uses}}}\n'
    path = scratch / "kernel.cu"
    path.write_text(text, encoding="utf-8")
    target = scratch / "nvcc.cubin"
    argv: list[str | Path] = [
        toolchain.nvcc,
        "-ccbin",
        toolchain.cxx,
        f"-arch={architecture}",
        "--expt-relaxed-constexpr",  # as NVRTC is told
        *([] if flags.host.standard else [f"-std={_STANDARD}"]),
        *flags.nvcc,
        "-cubin",
        "-o",
        target,
        path,
    ]
    search = [toolchain.nvcc.parent, toolchain.cxx.parent]
    done = run(argv, scratch=scratch, search=search)
    if not done.ok or not target.is_file():
        fault = "out_of_memory" if done.out_of_memory else "compile_error"
        raise _Failure(done.output.strip() or "nvcc made no cubin", fault=fault)
    cubin = target.read_bytes()
    entries = {_squeezed(base_name(entry)): entry for entry in kernels(cubin)}
    names: dict[str, str] = {}
    for asked, name in expressions.items():
        entry = entries.get(_squeezed(name.removeprefix("::")))
        if entry is None and "<" in name:
            # Arguments that the compiler writes in another way: the one instance it has.
            base = name.partition("<")[0].removeprefix("::").strip()
            instances = [e for n, e in entries.items() if n.partition("<")[0] == base]
            entry = instances[0] if len(instances) == 1 else None
        if entry is None:
            raise _Failure(
                f"kernel {asked!r} is not in what nvcc compiled",
                f"It holds {', '.join(entries) or 'no kernels'}.",
            )
        names[asked] = entry
    return cubin, done.output.strip(), names


def _require(missing: list[str]) -> None:
    if missing:
        raise _Failure(
            f"this machine lacks {', '.join(missing)}",
            "See `kerneljudge doctor` on the server.",
            fault="unavailable",
        )


def _squeezed(name: str) -> str:
    return re.sub(r"\s*([<>,*&])\s*", r"\1", name)
