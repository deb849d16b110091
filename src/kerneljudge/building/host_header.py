"""The precompiled header of the fast way, and the code that every extension is linked with.

Made once a machine, by a trusted process; builders only read it. It takes some 20 s and 450 MB.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building.process import Finished, run
from kerneljudge.building.toolchain import Toolchain

__all__ = ["HALF_MACROS", "HostHeader", "compile_flags", "find_header", "prepare_header"]

NATIVE = Path(__file__).parent / "native"
"""The C++ sources of this package."""

HALF_MACROS = (
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
)
"""What torch defines for every CUDA source (`COMMON_NVCC_FLAGS` of its cpp_extension)."""

_SHIMS = ("torch/extension.h", "torch/all.h", "torch/torch.h")
"""Headers that the precompiled one stands for: what it leaves out (pybind11, torch::nn) fails to
compile, which is seen, and the extension is then built as torch builds it."""
_SHIM = '#include "../../kerneljudge/extension.h"\n'
_DIGEST = re.compile(r"[0-9a-f]{32}")
_KEPT = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostHeader:
    """The header, where it lies."""

    folder: Path
    """Holds `kerneljudge/extension.h` and, in `shims`, the headers that it stands for."""
    support: Path
    """The object file to link."""

    @property
    def path(self) -> Path:
        """The header itself."""
        return self.folder / "kerneljudge" / "extension.h"

    @property
    def shims(self) -> Path:
        """The include folder that comes before torch's."""
        return self.folder / "shims"


def compile_flags(toolchain: Toolchain) -> list[str]:
    """The options of g++ for the header, and for all that uses it precompiled.

    Precompiled code is valid under these alone: g++ does not notice every difference, and has
    been seen to crash on one.
    """
    assert toolchain.torch is not None
    includes = [*toolchain.torch.includes, *toolchain.host_includes]
    return [
        f"-std={toolchain.torch.standard}",
        # Wrappers mostly call torch: what -O3 adds to -O2 takes time here and gives none there.
        "-O2",
        "-fPIC",
        # Statics in templates stay apart where two extensions have a kernel of the same name.
        "-fno-gnu-unique",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        *HALF_MACROS,
        f"-DKERNELJUDGE_CUDA={int(_with_cuda(toolchain))}",
        f"-DKERNELJUDGE_TORCH_STREAMS={int(toolchain.has_torch_streams)}",
        f"-DKERNELJUDGE_TORCH_CUDA={int(toolchain.has_torch_cuda)}",
        *(flag for folder in includes for flag in ("-isystem", str(folder))),
    ]


def find_header(toolchain: Toolchain, cache: Path) -> HostHeader | None:
    """The prepared header; None before `prepare_header` has made it."""
    folder = cache / _digest(toolchain)
    header = HostHeader(folder, folder / "support.o")
    return header if header.support.is_file() else None


def prepare_header(toolchain: Toolchain, cache: Path) -> Path | None:
    """Makes the header under `cache` unless it is there. Returns its folder.

    Processes that want the same one wait for each other. None, and a line in the log, where this
    machine cannot make it: extensions are then built without.
    """
    if toolchain.cxx is None or toolchain.torch is None:
        _log.info("no precompiled header: g++ or torch is missing")
        return None
    cache.mkdir(parents=True, exist_ok=True)
    digest = _digest(toolchain)
    with (cache / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = find_header(toolchain, cache)
        if ready is not None:
            return ready.folder
        prefix = f"making-{digest}-"
        for left in cache.glob(f"{prefix}*"):  # by a process that was killed: the lock is free
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=prefix) as name:
            folder = Path(name)
            failed = [done for done in _make(toolchain, folder) if not done.ok]
            if failed:
                _log.warning("the precompiled header cannot be made:\n%s", failed[0].output)
                return None
            target = cache / digest
            shutil.rmtree(target, ignore_errors=True)
            # Builders of another user read it, whatever this process's umask is.
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(folder, target)
            folder.mkdir()  # for TemporaryDirectory to remove
    _drop_old(cache)
    return cache / digest


def _drop_old(cache: Path) -> None:
    """Keeps the newest headers only: every change of a compiler or of torch makes another."""
    made = [path for path in cache.iterdir() if _DIGEST.fullmatch(path.name)]
    made.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in made[_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def write_header(folder: Path) -> HostHeader:
    """The header in `folder`, not precompiled."""
    header = HostHeader(folder, folder / "support.o")
    header.path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(NATIVE / "extension.h", header.path)
    for shim in _SHIMS:
        path = header.shims / shim
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_SHIM)
    return header


def compile_support(toolchain: Toolchain, header: HostHeader, scratch: Path) -> Finished:
    """Compiles the object that every extension is linked with."""
    return _compile(toolchain, [NATIVE / "support.cpp", "-c", "-o", header.support], scratch)


def _make(toolchain: Toolchain, folder: Path) -> list[Finished]:
    header = write_header(folder)
    precompiled: list[str | Path] = ["-x", "c++-header", header.path, "-o", f"{header.path}.gch"]
    with ThreadPoolExecutor() as pool:
        return [
            *pool.map(
                lambda job: job(),
                [
                    lambda: _compile(toolchain, precompiled, folder),
                    lambda: compile_support(toolchain, header, folder),
                ],
            )
        ]


def _compile(toolchain: Toolchain, argv: Sequence[str | Path], scratch: Path) -> Finished:
    assert toolchain.cxx is not None
    return run([toolchain.cxx, *compile_flags(toolchain), *argv], scratch=scratch)


def _with_cuda(toolchain: Toolchain) -> bool:
    return toolchain.host_headers is not None and toolchain.cudart is not None


def _digest(toolchain: Toolchain) -> str:
    """Names everything that the header depends on."""
    digest = hashlib.sha256(json.dumps(toolchain.identity(), sort_keys=True).encode())
    digest.update(json.dumps(compile_flags(toolchain)).encode())
    for name in ("extension.h", "support.cpp"):
        digest.update((NATIVE / name).read_bytes())
    return digest.hexdigest()[:32]
