"""Names inside compiled files: the kernels of a cubin, the symbols of an object, demangling."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

from kerneljudge.building.process import run

__all__ = ["base_name", "demangle", "kernels", "object_symbols", "split_instance"]

# ELF-64, little endian: System V ABI, "ELF header", "Sections", "Symbol table".
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHT_SYMTAB = 2
_STT_FUNC = 2
_STO_CUDA_ENTRY = 0x10
"""In a cubin, the flag in `st_other` of a symbol that can be launched (as in cuobjdump's list)."""


def kernels(cubin: bytes) -> list[str]:
    """Mangled names of the kernels in a cubin, in the order of its symbol table.

    Raises ValueError for what is no ELF-64 file.
    """
    if cubin[:5] != b"\x7fELF\x02" or len(cubin) < _HEADER.size:
        raise ValueError("not an ELF-64 file")
    header = _HEADER.unpack_from(cubin)
    offset, entry_size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(cubin, offset + entry_size * i) for i in range(count)]
    found = []
    for section in sections:
        if section[1] != _SHT_SYMTAB:
            continue
        start, size, strings = section[4], section[5], sections[section[6]][4]
        for at in range(start, start + size, _SYMBOL.size):
            name, info, other, *_ = _SYMBOL.unpack_from(cubin, at)
            if info & 0xF == _STT_FUNC and other & _STO_CUDA_ENTRY:
                end = cubin.index(b"\0", strings + name)
                found.append(cubin[strings + name : end].decode())
    return found


def object_symbols(nm: Path, path: Path, scratch: Path) -> list[str]:
    """Every symbol of an object file. Raises OSError where `nm` fails."""
    finished = run([nm, "--format=posix", path], scratch=scratch)
    if not finished.ok:
        raise OSError(f"nm: {finished.output.strip()}")
    return [line.partition(" ")[0] for line in finished.output.splitlines()]


def demangle(name: str) -> str | None:
    """The C++ name behind a mangled one (Itanium ABI); None where it is no mangled name."""
    library = ctypes.CDLL("libstdc++.so.6")
    function = library["__cxa_demangle"]
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    status = ctypes.c_int()
    text = function(name.encode(), None, None, ctypes.byref(status))
    if not text:
        return None
    try:
        return ctypes.string_at(text).decode()
    finally:
        free = ctypes.CDLL(None).free
        free.argtypes = [ctypes.c_void_p]
        free(text)


def base_name(mangled: str) -> str:
    """The kernel's name with its template arguments and without its parameters.

    `_Z5scaleIfEvPT_i` is `scale<float>`; names in unnamed namespaces come without them.
    """
    full = demangle(mangled)
    if full is None:
        return mangled
    full = full.replace("(anonymous namespace)::", "")
    end = start = 0
    for position, character in _outside_brackets(full):
        if character == "(":
            end = position
            break
        if character == " ":
            start = position + 1  # a template's name follows its return type
    return full[start : end or len(full)]


def split_instance(text: str, name: str) -> str | None:
    """The template arguments in `ns::name<args>`: `args`; "" where there are none.

    None where `text` does not hold `name`.
    """
    at = text.find(name)
    if at < 0:
        return None
    rest = text[at + len(name) :].strip()
    return rest[1:-1].strip() if rest.startswith("<") and rest.endswith(">") else ""


def _outside_brackets(text: str) -> Iterator[tuple[int, str]]:
    depth = 0
    for position, character in enumerate(text):
        if depth == 0:
            yield position, character
        if character in "<[{":
            depth += 1
        elif character in ">]}":
            depth -= 1
