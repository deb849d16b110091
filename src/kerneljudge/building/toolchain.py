"""The compilers and headers of this machine: what there is, where, of which version, and why not.

Nothing here imports torch or opens a GPU: versions are read from files and from the compilers.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kerneljudge.building.process import run

__all__ = ["Capability", "CudaHeaders", "Toolchain", "TorchFiles"]

_CUDART_VERSION = re.compile(r"#define\s+CUDART_VERSION\s+(\d+)")
_STANDARD = re.compile(r"-std=(c\+\+\d+)")
# What ATen/cuda/CUDAContext.h includes beside the runtime's own headers.
_MATH_HEADERS = ("cublas_v2.h", "cublasLt.h", "cusparse.h", "cusolverDn.h")


@dataclass(frozen=True)
class Capability:
    """One thing that a machine can or cannot do."""

    name: str
    """What it is."""
    available: bool
    """Whether it is there."""
    detail: str
    """Version and place, or why not and what to do."""


@dataclass(frozen=True)
class CudaHeaders:
    """A folder with CUDA's headers."""

    path: Path
    """The folder of cuda_runtime.h."""
    version: int
    """CUDART_VERSION: 13000 for 13.0."""

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        return self.version // 1000, self.version % 1000 // 10

    @property
    def cccl(self) -> Path | None:
        """The folder of CUB, Thrust and libcu++; None where they are not there."""
        for folder in (self.path / "cccl", self.path):
            if (folder / "cuda" / "std" / "cstdint").is_file():
                return folder
        return None


@dataclass(frozen=True)
class TorchFiles:
    """An installed torch, as files."""

    root: Path
    """The package's folder."""
    version: str
    """`__version__`."""
    cuda: str | None
    """The CUDA version that it was built for; None for a CPU build."""
    standard: str
    """The C++ standard of its extensions, such as `c++20`."""

    @property
    def includes(self) -> list[Path]:
        """Include folders, in the order in which torch's own builder names them."""
        include = self.root / "include"
        return [include, include / "torch" / "csrc" / "api" / "include"]

    @property
    def libraries(self) -> Path:
        """The folder of its shared libraries."""
        return self.root / "lib"

    @property
    def has_cuda_library(self) -> bool:
        """Whether its CUDA part is installed."""
        return (self.libraries / "libc10_cuda.so").is_file()

    @property
    def has_cuda_headers(self) -> bool:
        """Whether its CUDA headers are complete: a CPU wheel lacks those that its build makes."""
        macros = self.root / "include" / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
        return macros.is_file()


@dataclass(frozen=True)
class Toolchain:
    """What can be compiled here. Every field is None or empty where the machine lacks it."""

    cxx: Path | None = None
    """g++."""
    cxx_version: str | None = None
    """Its full version."""
    nm: Path | None = None
    """The symbol lister of binutils."""
    nvcc: Path | None = None
    """The CUDA compiler driver."""
    nvcc_version: str | None = None
    """Its release, such as `13.0.88`."""
    nvrtc_version: tuple[int, int] | None = None
    """The runtime compiler's version."""
    nvrtc_problem: str | None = None
    """Why it cannot be used."""
    torch: TorchFiles | None = None
    """torch."""
    headers: tuple[CudaHeaders, ...] = ()
    """Every folder of CUDA headers, the toolkit's before those of Python packages."""
    math_includes: tuple[Path, ...] = ()
    """Folders with the headers of cuBLAS and the like that Python packages bring."""
    library_folders: tuple[Path, ...] = ()
    """Folders of CUDA's libraries."""
    python_include: Path | None = None
    """The folder of Python.h."""

    @classmethod
    def detect(cls, environment: Mapping[str, str] | None = None) -> Toolchain:
        """Looks around. `environment` (PATH, CUDA_HOME) is this process's own if not given.

        A process, with what it forks, looks once an environment.
        """
        environment = os.environ if environment is None else environment
        return cls._detect(
            environment.get("PATH", os.defpath),
            environment.get("CUDA_HOME") or environment.get("CUDA_PATH"),
        )

    @classmethod
    @functools.cache
    def _detect(cls, search: str, cuda_home: str | None) -> Toolchain:
        cxx = _program("g++", search)
        nm = _program("nm", search)
        toolkit = _toolkit(search, cuda_home)
        nvcc = _nvcc(toolkit, search)
        nvrtc_version, nvrtc_problem = _nvrtc()
        python_include = Path(sysconfig.get_paths()["include"])
        return cls(
            cxx=cxx,
            cxx_version=_output([cxx, "-dumpfullversion", "-dumpversion"]) if cxx else None,
            nm=nm,
            nvcc=nvcc,
            nvcc_version=_nvcc_version(nvcc) if nvcc else None,
            nvrtc_version=nvrtc_version,
            nvrtc_problem=nvrtc_problem,
            torch=_torch(),
            headers=tuple(_headers(toolkit)),
            math_includes=tuple(_math_includes()),
            library_folders=tuple(_libraries(toolkit)),
            python_include=python_include if (python_include / "Python.h").is_file() else None,
        )

    @cached_property
    def device_headers(self) -> CudaHeaders | None:
        """The headers for NVRTC: of its own version where there are such."""
        return self._headers_of(self.nvrtc_version)

    @cached_property
    def host_headers(self) -> CudaHeaders | None:
        """The headers for g++: of torch's CUDA version where there are such, else NVRTC's."""
        if self.torch is not None and self.torch.cuda is not None:
            major, _, minor = self.torch.cuda.partition(".")
            return self._headers_of((int(major), int(minor.partition(".")[0] or 0)))
        return self.device_headers

    def _headers_of(self, release: tuple[int, int] | None) -> CudaHeaders | None:
        for found in self.headers:
            if found.release == release:
                return found
        return self.headers[0] if self.headers else None

    @cached_property
    def host_includes(self) -> list[Path]:
        """CUDA's include folders for g++: the chosen headers and others of the same version."""
        chosen = self.host_headers
        if chosen is None:
            return []
        same = [found.path for found in self.headers if found.release == chosen.release]
        return list(dict.fromkeys([chosen.path, *same, *self.math_includes]))

    @cached_property
    def device_includes(self) -> list[Path]:
        """Include folders for NVRTC, libcu++ and CUB among them."""
        chosen = self.device_headers
        if chosen is None:
            return []
        cccl = chosen.cccl or next((found.cccl for found in self.headers if found.cccl), None)
        return list(dict.fromkeys([chosen.path, *([cccl] if cccl else [])]))

    @cached_property
    def cudart(self) -> Path | None:
        """The CUDA runtime's shared library, of the version of the host headers."""
        chosen = self.host_headers
        names = ["libcudart.so"] if chosen is None else [f"libcudart.so.{chosen.release[0]}"]
        for folder in self.library_folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        return None

    @cached_property
    def has_torch_streams(self) -> bool:
        """Whether host code may use torch's CUDA streams and devices (c10/cuda)."""
        return (
            self.torch is not None
            and self.torch.has_cuda_headers
            and self.torch.has_cuda_library
            and self.host_headers is not None
        )

    @cached_property
    def has_torch_cuda(self) -> bool:
        """Whether host code may use all of torch's CUDA part (ATen/cuda): that includes headers
        of cuBLAS, cuSPARSE and cuSOLVER."""
        return self.has_torch_streams and all(map(self.has_header, _MATH_HEADERS))

    def has_header(self, name: str) -> bool:
        """Whether a header is in CUDA's include folders for g++."""
        return any((folder / name).is_file() for folder in self.host_includes)

    @cached_property
    def folders(self) -> list[Path]:
        """Every folder that compilers of this toolchain read, for a sandbox to allow."""
        found = [headers.path for headers in self.headers]
        found += [headers.path.resolve() for headers in self.headers]
        found += self.math_includes
        found += self.library_folders
        found += [folder.resolve() for folder in self.library_folders]
        for program in (self.cxx, self.nm):
            if program is not None:
                found += [program.parent, program.resolve().parent]
        if self.nvcc is not None:
            found += [self.nvcc.parent.parent, self.nvcc.resolve().parent.parent]
        if self.torch is not None:
            found.append(self.torch.root)
        if self.python_include is not None:
            found.append(self.python_include)
        return list(dict.fromkeys(found))

    def identity(self) -> dict[str, str]:
        """Names and versions of all that a build's result depends on."""
        torch = self.torch
        return {
            "g++": str(self.cxx_version),
            "nvcc": str(self.nvcc_version),
            "nvrtc": str(self.nvrtc_version),
            "torch": "none"
            if torch is None
            else f"{torch.version} {torch.cuda} {torch.standard} {torch.root}",
            "torch cuda": f"{self.has_torch_streams} {self.has_torch_cuda}",
            "headers": " ".join(
                f"{found.path}={found.version}:{_cccl_version(found)}" for found in self.headers
            ),
            "cudart": str(self.cudart),
            "python": f"{sys.implementation.cache_tag} {self.python_include}",
        }

    def capabilities(self) -> list[Capability]:
        """What this machine can compile, in the order in which a person reads it."""
        return [*self._parts(), *self._ways()]

    def _parts(self) -> Iterator[Capability]:
        yield Capability(
            "g++",
            self.cxx is not None,
            f"{self.cxx_version} at {self.cxx}"
            if self.cxx
            else "not on the PATH; install the package g++",
        )
        yield Capability(
            "NVRTC",
            self.nvrtc_version is not None,
            "{}.{}".format(*self.nvrtc_version)
            if self.nvrtc_version
            else f"{self.nvrtc_problem}; install cuda-bindings and cuda-toolkit[nvrtc]",
        )
        yield Capability(
            "nvcc",
            self.nvcc is not None,
            f"{self.nvcc_version} at {self.nvcc}"
            if self.nvcc
            else "not under CUDA_HOME, on the PATH or in /usr/local/cuda; install a CUDA toolkit",
        )
        headers = self.device_headers
        yield Capability(
            "CUDA headers",
            headers is not None,
            "{}.{} at {}".format(*headers.release, headers.path)
            if headers
            else "none; install a CUDA toolkit, or the package cuda-toolkit[cudart,crt]",
        )
        cccl = next((found.cccl for found in self.headers if found.cccl), None)
        yield Capability(
            "CCCL headers (cooperative_groups.h, cuda/std, CUB)",
            cccl is not None,
            str(cccl) if cccl else "none; install the package cuda-toolkit[cccl]",
        )
        yield Capability(
            "torch headers",
            self.torch is not None,
            f"{self.torch.version}, {self.torch.standard}" if self.torch else "torch is missing",
        )
        yield Capability(
            "torch CUDA headers",
            self.has_torch_cuda,
            f"CUDA {self.torch.cuda}"
            if self.torch and self.has_torch_cuda
            else self.without_torch_cuda,
        )
        yield Capability(
            "Python headers",
            self.python_include is not None,
            str(self.python_include)
            if self.python_include
            else "Python.h is missing; install python3-dev",
        )

    def _ways(self) -> Iterator[Capability]:
        for name, missing in (
            ("cuda kernels through NVRTC", self.missing_for_nvrtc()),
            ("cuda kernels through nvcc", self.missing_for_nvcc()),
            ("torch_cuda, fast way", self.missing_for_fast()),
            ("torch_cuda, as torch builds", self.missing_for_extension()),
        ):
            yield Capability(name, not missing, f"lacks {', '.join(missing)}" if missing else "yes")

    @property
    def without_torch_cuda(self) -> str:
        """Why torch's CUDA headers cannot be used."""
        if self.torch is None:
            return "torch is missing"
        if self.torch.cuda is None:
            return f"torch {self.torch.version} is built without CUDA"
        if not (self.torch.has_cuda_headers and self.torch.has_cuda_library):
            return f"torch {self.torch.version} lacks its CUDA headers or libraries"
        lacking = [name for name in _MATH_HEADERS if not self.has_header(name)]
        return f"CUDA headers are missing: {', '.join(lacking)}"

    def missing_for_nvrtc(self) -> list[str]:
        """What keeps device code from being compiled by NVRTC."""
        return self._missing(nvrtc=True, headers=True)

    def missing_for_nvcc(self) -> list[str]:
        """What keeps device code from being compiled by nvcc."""
        return self._missing(nvcc=True, cxx=True)

    def missing_for_fast(self) -> list[str]:
        """What keeps extensions with device code from being built the fast way."""
        return self._missing(nvrtc=True, headers=True, cxx=True, nm=True, torch=True, cudart=True)

    def missing_for_extension(self) -> list[str]:
        """What keeps extensions with device code from being built as torch builds them."""
        return self._missing(nvcc=True, cxx=True, torch=True, python=True)

    def _missing(self, **needed: bool) -> list[str]:
        have: dict[str, tuple[object, str]] = {
            "nvrtc": (self.nvrtc_version, "NVRTC"),
            "nvcc": (self.nvcc, "nvcc"),
            "headers": (self.device_headers, "CUDA headers"),
            "cxx": (self.cxx, "g++"),
            "nm": (self.nm, "nm (binutils)"),
            "torch": (self.torch, "torch"),
            "cudart": (self.cudart, "libcudart"),
            "python": (self.python_include, "Python headers"),
        }
        return [name for key, (found, name) in have.items() if needed.get(key) and found is None]


def _program(name: str, search: str) -> Path | None:
    found = shutil.which(name, path=search)
    return Path(found) if found else None


def _output(argv: list[str | Path]) -> str | None:
    finished = run(argv, scratch=Path("/"), search=[Path(argv[0]).parent])
    return finished.output.strip() if finished.ok else None


def _toolkit(search: str, cuda_home: str | None) -> Path | None:
    """The root of a CUDA toolkit: CUDA_HOME, that of the nvcc on the PATH, /usr/local/cuda."""
    candidates = [cuda_home]
    nvcc = shutil.which("nvcc", path=search)
    if nvcc is not None:
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    candidates.append("/usr/local/cuda")
    for candidate in candidates:
        if candidate and any(
            (Path(candidate) / part).exists() for part in ("nvvm", "include/cuda_runtime.h")
        ):
            return Path(candidate)
    return None


def _nvcc(toolkit: Path | None, search: str) -> Path | None:
    if toolkit is not None and (toolkit / "bin" / "nvcc").is_file():
        return toolkit / "bin" / "nvcc"
    return _program("nvcc", search)


def _nvcc_version(nvcc: Path) -> str | None:
    found = re.search(r"\bV(\d+\.\d+\.\d+)", _output([nvcc, "--version"]) or "")
    return found.group(1) if found else None


def _nvrtc() -> tuple[tuple[int, int] | None, str | None]:
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as problem:
        # RuntimeError: the bindings are there, and the library is not.
        return None, (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        return None, f"nvrtcVersion: {error.name}"
    return (major, minor), None


def _torch() -> TorchFiles | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    try:
        tree = ast.parse((root / "version.py").read_text())
        builder = (root / "utils" / "cpp_extension.py").read_text()
    except OSError:
        return None
    values: dict[str, str | None] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str | None):
            values.update({t.id: value.value for t in targets if isinstance(t, ast.Name)})
    standard = _STANDARD.search(builder)
    if not (root / "include" / "torch").is_dir() or standard is None:
        return None
    return TorchFiles(
        root=root,
        version=str(values.get("__version__")),
        cuda=values.get("cuda"),
        standard=standard.group(1),
    )


def _packages() -> Iterator[Path]:
    """Roots of the Python packages that carry parts of CUDA: `nvidia/cu13` and the like."""
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(location).glob("cu[0-9]*"), reverse=True)
        yield Path(location) / "cuda_runtime"


def _headers(toolkit: Path | None) -> Iterator[CudaHeaders]:
    roots = [toolkit] if toolkit else []
    for root in [*roots, *_packages()]:
        for include in (root / "include", root / "targets" / "x86_64-linux" / "include"):
            runtime = include / "cuda_runtime_api.h"
            if runtime.is_file() and (include / "cuda_fp16.h").is_file():
                found = _CUDART_VERSION.search(runtime.read_text(errors="replace"))
                if found:
                    yield CudaHeaders(include, int(found.group(1)))
                    break


def _math_includes() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for include in sorted(Path(location).glob("*/include")):
            if any((include / name).is_file() for name in _MATH_HEADERS):
                yield include


def _libraries(toolkit: Path | None) -> Iterator[Path]:
    roots = [toolkit] if toolkit else []
    for root in [*roots, *_packages()]:
        for name in ("lib64", "lib", "targets/x86_64-linux/lib"):
            if any((root / name).glob("libcudart.so*")):
                yield root / name
                break


def _cccl_version(headers: CudaHeaders) -> str:
    folder = headers.cccl
    version = folder and folder / "cuda" / "std" / "__cccl" / "version.h"
    if version is None or not version.is_file():
        return "none"
    found = re.search(r"#define\s+CCCL_VERSION\s+(\d+)", version.read_text(errors="replace"))
    return found.group(1) if found else "unknown"
