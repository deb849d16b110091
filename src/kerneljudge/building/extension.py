"""Builds torch extensions: the fast way where it is faithful, else as torch builds them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building.cuda_source import Unfaithful
from kerneljudge.building.extension_fast import CompileFailed, build_fast
from kerneljudge.building.extension_nvcc import build_as_torch
from kerneljudge.building.flags import FlagError
from kerneljudge.building.process import bounded
from kerneljudge.building.requests import BuildResult, ExtensionBuild
from kerneljudge.building.sources import Extension, ExtensionError
from kerneljudge.building.toolchain import Toolchain

__all__ = ["build_extension"]

_FAST_REASON = "device code by NVRTC, wrapper by g++"
_NVCC_HINT = "Install a CUDA toolkit with nvcc on the server."


@dataclass(frozen=True)
class _Builder:
    extension: Extension
    scratch: Path
    toolchain: Toolchain
    include_cache: Path

    def fast(self) -> BuildResult:
        """Raises `Unfaithful` and `CompileFailed`."""
        missing = self.toolchain.missing_for_fast()
        if not self.extension.cuda:
            missing = [name for name in missing if name in ("g++", "torch")]
        if missing:
            raise Unfaithful(f"the fast way lacks {', '.join(missing)}")
        namespace = _namespace(self.extension.request)
        built = build_fast(
            self.extension,
            namespace,
            scratch=_folder(self.scratch, "fast"),
            toolchain=self.toolchain,
            include_cache=self.include_cache,
        )
        artefacts = {"library": built.library}
        if built.cubin is not None:
            artefacts["cubin"] = built.cubin
        return BuildResult(
            ok=True,
            way="fast",
            reason=_FAST_REASON if built.cubin is not None else "wrapper by g++, no device code",
            artefacts=artefacts,
            manifest={
                "kind": "torch_library",
                "namespace": namespace,
                "functions": built.functions,
                "docs": self.extension.request.functions or {},
                "kernels": built.kernels,
                "architecture": built.architecture,
                "depends_on_other_files": self.extension.names_other_files,
            },
            log=bounded(built.log),
        )

    def as_torch(self, reason: str) -> BuildResult:
        """Raises `CompileFailed`."""
        missing = self.toolchain.missing_for_extension()
        if not self.extension.cuda:
            missing = [name for name in missing if name != "nvcc"]
        if missing:
            return _unavailable(
                f"the extension must be built as torch builds it ({reason}), and this machine "
                f"lacks {', '.join(missing)}"
            )
        built = build_as_torch(
            self.extension, scratch=_folder(self.scratch, "nvcc"), toolchain=self.toolchain
        )
        request = self.extension.request
        return BuildResult(
            ok=True,
            way="nvcc",
            reason=reason,
            artefacts={"module": built.module},
            manifest={
                "kind": "python_module",
                "name": request.name,
                "docs": request.functions or {},
                "architecture": request.architecture,
                "has_device_code": bool(self.extension.cuda),
                "depends_on_other_files": self.extension.names_other_files,
            },
            log=bounded(built.log),
        )


def build_extension(
    request: ExtensionBuild, *, scratch: Path, toolchain: Toolchain, include_cache: Path
) -> BuildResult:
    """Builds an extension, whichever way. Never raises for the submitter's mistakes."""
    way = "nvcc" if request.preference == "nvcc" else "fast"
    try:
        extension = Extension.read(request)
    except (FlagError, ExtensionError) as error:
        return BuildResult(
            ok=False, way=way, log=str(error), hint=error.hint, fault="compile_error"
        )
    header = extension.unavailable_include(toolchain)
    if header is not None:
        return _unavailable(
            f"the source includes <{header}>, and it can be built only where torch has CUDA: "
            f"{toolchain.without_torch_cuda}",
            "Submit it to a server with an NVIDIA GPU.",
        )
    builder = _Builder(extension, scratch, toolchain, include_cache)
    reason = "asked for"
    failure: CompileFailed | None = None
    if request.preference != "nvcc":
        try:
            return builder.fast()
        except Unfaithful as stop:
            if request.preference == "fast":
                return BuildResult(
                    ok=False,
                    way="fast",
                    log=f"the fast way is not faithful to this source: {stop}",
                    hint="Set metadata.build to auto or nvcc.",
                    fault="compile_error",
                )
            reason = str(stop)
        except CompileFailed as stop:
            if stop.final or request.preference == "fast":
                return _failed("fast", stop, None)
            if missing := toolchain.missing_for_extension():
                lacking = ", ".join(missing)
                return _failed("fast", stop, f"not tried as torch builds it: lacks {lacking}")
            failure = stop
            reason = f"the fast way did not compile: {_first_error(stop.log)}"
    try:
        return builder.as_torch(reason)
    except CompileFailed as stop:
        # Where both fail the source is at fault; nvcc's messages are the ones to go by.
        return _failed("nvcc", stop, reason if failure is None else None)


def _failed(way: str, failure: CompileFailed, reason: str | None) -> BuildResult:
    return BuildResult.model_validate(
        {
            "ok": False,
            "way": way,
            "reason": reason,
            "log": bounded(failure.log),
            "fault": "out_of_memory" if failure.out_of_memory else "compile_error",
        }
    )


def _unavailable(message: str, hint: str = _NVCC_HINT) -> BuildResult:
    return BuildResult(ok=False, way="nvcc", log=message, hint=hint, fault="unavailable")


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if "error" in line]
    return (lines or log.strip().splitlines() or ["no message"])[0][:200]


def _namespace(request: ExtensionBuild) -> str:
    """A namespace of torch.ops for this extension and no other."""
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
    return f"kerneljudge_{digest[:16]}"


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
