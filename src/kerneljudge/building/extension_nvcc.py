"""The way that torch builds an extension: nvcc for CUDA, g++ for C++, a Python module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building.extension_fast import CompileFailed
from kerneljudge.building.host_header import HALF_MACROS
from kerneljudge.building.lexer import code_only, tokens
from kerneljudge.building.process import run
from kerneljudge.building.sources import Extension
from kerneljudge.building.toolchain import Toolchain

__all__ = ["NvccExtension", "build_as_torch"]


@dataclass(frozen=True)
class NvccExtension:
    """What nvcc and g++ make."""

    module: Path
    """The Python extension module."""
    log: str
    """Warnings."""


@dataclass(frozen=True)
class _Unit:
    name: str
    text: str
    is_cuda: bool


def build_as_torch(extension: Extension, *, scratch: Path, toolchain: Toolchain) -> NvccExtension:
    """Builds an extension, with the options of `torch.utils.cpp_extension`.

    Raises `CompileFailed`.
    """
    headers = extension.write_headers(scratch)
    units = _units(extension)
    jobs: list[tuple[Path, list[str | Path]]] = []
    for unit in units:
        path = scratch / unit.name
        path.write_text(unit.text, encoding="utf-8")
        compiled = path.with_suffix(f"{path.suffix}.o")
        command = _nvcc if unit.is_cuda else _cxx
        jobs.append(
            (compiled, [*command(extension, toolchain, headers), "-c", path, "-o", compiled])
        )
    search = [program.parent for program in (toolchain.nvcc, toolchain.cxx) if program is not None]
    with ThreadPoolExecutor() as pool:
        finished = [
            *pool.map(lambda job: run(job[1], scratch=scratch, search=search), jobs),
        ]
    log = "\n".join(filter(None, (done.output.strip() for done in finished)))
    if not all(done.ok for done in finished):
        raise CompileFailed(log, out_of_memory=any(done.out_of_memory for done in finished))
    module = scratch / f"{extension.request.name}.so"
    with_cuda = any(unit.is_cuda for unit in units)
    objects = [compiled for compiled, _ in jobs]
    linked = run(
        _link(extension, toolchain, objects, module, with_cuda), scratch=scratch, search=search
    )
    if not linked.ok:
        raise CompileFailed(f"{log}\n{linked.output}".strip(), out_of_memory=linked.out_of_memory)
    return NvccExtension(module, log)


def _units(extension: Extension) -> list[_Unit]:
    request = extension.request
    module = _module(request.functions)
    if request.separate:
        units = [
            *(("cu", True, joined) for joined in extension.cuda),
            *(("cpp", False, joined) for joined in extension.cpp),
        ]
        return [
            _Unit(f"source{number}.{suffix}", joined.with_lines(joined.code), is_cuda)
            for number, (suffix, is_cuda, joined) in enumerate(units)
        ]
    cuda = "".join(joined.with_lines(joined.code) for joined in extension.cuda)
    cpp = "".join(joined.with_lines(joined.code) for joined in extension.cpp)
    if request.implicit_headers:
        runtime = "#include <torch/types.h>\n#include <cuda.h>\n#include <cuda_runtime.h>\n"
        cpp = "#include <torch/extension.h>\n" + cpp
        cuda = runtime + cuda if cuda else ""
    if cuda and _needs_cuda_beside(extension):
        # torch compiles the C++ alone: it could not launch kernels that CUDA sources define.
        return [_Unit("cuda.cu", "#include <torch/extension.h>\n" + cuda + cpp + module, True)]
    units_ = [_Unit("main.cpp", cpp + module, False)]
    return [*units_, _Unit("cuda.cu", cuda, True)] if cuda else units_


def _needs_cuda_beside(extension: Extension) -> bool:
    """Whether the C++ sources launch kernels, or leave out what `functions` names."""
    names: set[bytes] = set()
    for joined in extension.cpp:
        found = [token.text for token in tokens(code_only(joined.code)) if token.kind != "comment"]
        if b"<<<" in found or {b"__global__", b"__device__"} & set(found):
            return True
        names.update(found)
    return any(
        name.rpartition("::")[2].encode() not in names for name in extension.request.functions or {}
    )


def _module(functions: dict[str, str] | None) -> str:
    if functions is None:
        return ""
    lines = ['\n#line 1 "functions"', "PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {"]
    lines += [
        f'm.def("{name}", torch::wrap_pybind_function({name}), "{name}");' for name in functions
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _common(extension: Extension, toolchain: Toolchain, headers: Path) -> list[str]:
    assert toolchain.torch is not None
    folders = [*toolchain.torch.includes, *toolchain.host_includes]
    if toolchain.python_include is not None:
        folders.append(toolchain.python_include)
    return [
        f"-DTORCH_EXTENSION_NAME={extension.request.name}",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        f"-I{headers}",
        *(flag for folder in folders for flag in ("-isystem", str(folder))),
    ]


def _cxx(extension: Extension, toolchain: Toolchain, headers: Path) -> list[str | Path]:
    assert toolchain.torch is not None
    assert toolchain.cxx is not None
    flags = extension.host_flags
    return [
        toolchain.cxx,
        *_common(extension, toolchain, headers),
        "-fPIC",
        f"-std={flags.standard or toolchain.torch.standard}",
        *([flags.optimisation] if flags.optimisation else []),
        *flags.arguments,
    ]


def _nvcc(extension: Extension, toolchain: Toolchain, headers: Path) -> list[str | Path]:
    assert toolchain.torch is not None
    assert toolchain.cxx is not None
    assert toolchain.nvcc is not None
    flags = extension.cuda_flags
    number = extension.request.architecture.removeprefix("sm_")
    target = f"-gencode=arch=compute_{number},code=[compute_{number},sm_{number}]"
    return [
        toolchain.nvcc,
        "-ccbin",
        toolchain.cxx,
        *_common(extension, toolchain, headers),
        *HALF_MACROS,
        "--expt-relaxed-constexpr",
        *(flags.architectures or [target]),
        "--compiler-options",
        "-fPIC",
        *flags.nvcc,
        *([] if flags.host.standard else [f"-std={toolchain.torch.standard}"]),
    ]


def _link(
    extension: Extension, toolchain: Toolchain, objects: list[Path], module: Path, cuda: bool
) -> list[str | Path]:
    assert toolchain.torch is not None
    assert toolchain.cxx is not None
    torch = ["c10", "torch_cpu", "torch", "torch_python"]
    folders = [toolchain.torch.libraries]
    runtime: list[str | Path] = []
    if cuda:
        if toolchain.torch.has_cuda_library:
            torch[1:1] = ["c10_cuda"]
            torch.insert(3, "torch_cuda")
        folders += toolchain.library_folders
        folders += [folder / "stubs" for folder in toolchain.library_folders]
        if toolchain.cudart is not None:
            runtime = [toolchain.cudart, f"-Wl,-rpath,{toolchain.cudart.parent}"]
    return [
        toolchain.cxx,
        *objects,
        "-shared",
        *extension.link_flags,
        *(f"-L{folder}" for folder in folders),
        *(f"-l{name}" for name in torch),
        *runtime,
        "-o",
        module,
    ]
