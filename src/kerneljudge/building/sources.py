"""The sources of an extension: labels for messages, what they name, what they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from kerneljudge.building.cuda_source import Joined, Unfaithful, split
from kerneljudge.building.flags import (
    CudaFlags,
    HostFlags,
    cuda_flags,
    host_flags,
    link_flags,
    words,
)
from kerneljudge.building.lexer import code_only, tokens
from kerneljudge.building.requests import ExtensionBuild
from kerneljudge.building.toolchain import Toolchain

__all__ = ["Extension", "ExtensionError"]

_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"\n]+)[>"]', re.MULTILINE)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(::[A-Za-z_]\w*)*")


class ExtensionError(Exception):
    """A request that no compiler needs to see to fail."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Extension:
    """A request, checked. Raises `FlagError` or `ExtensionError` where it is not acceptable."""

    request: ExtensionBuild
    cuda: tuple[Joined, ...]
    """Translation units of CUDA."""
    cpp: tuple[Joined, ...]
    """Translation units of C++."""
    cuda_flags: CudaFlags
    """Options for them, with the include folders."""
    host_flags: HostFlags
    """Options for the C++ ones, likewise."""
    link_flags: tuple[str, ...]
    """Options for the linker."""

    @classmethod
    def read(cls, request: ExtensionBuild) -> Extension:
        """Checks a request."""
        if not _IDENTIFIER.fullmatch(request.name):
            raise ExtensionError(
                f"extension name {request.name!r} is no C++ identifier",
                "Name it with letters, digits and underscores.",
            )
        for function in request.functions or {}:
            if not _FUNCTION.fullmatch(function):
                raise ExtensionError(f"functions: {function!r} is no name of a C++ function")
        for header in request.headers:
            path = PurePosixPath(header)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ExtensionError(f"headers: {header!r} is no relative path")
        folders = [f"-I{folder}" for folder in request.extra_include_paths]
        extension = cls(
            request,
            tuple(_units(request.cuda_sources, "cuda_sources", request.separate)),
            tuple(_units(request.cpp_sources, "cpp_sources", request.separate)),
            cuda_flags([*folders, *words(request.extra_cuda_cflags)]),
            host_flags([*folders, *words(request.extra_cflags)]),
            tuple(link_flags(words(request.extra_ldflags))),
        )
        extension._check_functions()
        return extension

    def write_headers(self, scratch: Path) -> Path:
        """Writes the submitter's own headers and returns their folder."""
        folder = scratch / "headers"
        folder.mkdir()
        for name, text in self.request.headers.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    @cached_property
    def includes(self) -> set[str]:
        """Every header that the sources include, also those under conditions."""
        texts = [*self.request.cuda_sources, *self.request.cpp_sources]
        texts += self.request.headers.values()
        return {
            found.decode(errors="replace")
            for text in texts
            for found in _INCLUDE.findall(text.encode())
        }

    def unavailable_include(self, toolchain: Toolchain) -> str | None:
        """A header of torch's CUDA part that the sources include and this machine cannot."""
        missing: tuple[str, ...] = ()
        if not toolchain.has_torch_cuda:
            missing += ("ATen/cuda/", "ATen/native/cuda/")
        if not toolchain.has_torch_streams:
            missing += ("c10/cuda/",)
        return min((name for name in self.includes if name.startswith(missing)), default=None)

    @property
    def names_other_files(self) -> bool:
        """Whether the result depends on files that the request does not hold."""
        return bool(self.cuda_flags.host.folders or self.host_flags.folders)

    def _check_functions(self) -> None:
        """Raises for a function that is named nowhere in the sources."""
        if self.request.headers or self.names_other_files:
            return  # it may be in a header
        names: set[str] = set()
        for unit in (*self.cuda, *self.cpp):
            bare = code_only(unit.code)
            names |= {token.word for token in tokens(bare) if token.kind == "name"}
        missing = [
            function
            for function in self.request.functions or {}
            if function.rpartition("::")[2] not in names
        ]
        if missing:
            known = sorted(self._defined())
            raise ExtensionError(
                f"functions: {', '.join(missing)} is defined nowhere in cpp_sources or "
                "cuda_sources",
                f"The sources define {', '.join(known)}."
                if known
                else "Define it, or name a function that the sources define.",
            )

    def _defined(self) -> set[str]:
        found: set[str] = set()
        for unit in (*self.cuda, *self.cpp):
            try:
                found |= split(unit).defined
            except Unfaithful:
                continue  # the hint names what can be read
        return found


def _units(sources: Iterable[str], label: str, separate: bool) -> Iterator[Joined]:
    texts = list(sources)
    labelled = [
        (label if len(texts) == 1 else f"{label}[{index}]", text.replace("\r\n", "\n"))
        for index, text in enumerate(texts)
    ]
    if separate:
        yield from (Joined((unit,)) for unit in labelled)
    elif labelled:
        yield Joined(tuple(labelled))
