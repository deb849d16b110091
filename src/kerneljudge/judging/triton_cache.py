"""What Triton compiled for a source, kept for the next job with the same source.

Triton compiles in the runner, since its kernels are Python: what lies in its cache was written by
submitted code. It is therefore given back to that very source and to no other, only by the judge,
and only what has the shape of Triton's own cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kerneljudge.building import mark_used
from kerneljudge.judging.staging import staged
from kerneljudge.schema import KernelCode

__all__ = ["TritonCache"]

_FOLDER = re.compile(r"[A-Z2-7]{40,64}")
_FILE = re.compile(r"[A-Za-z0-9_.+-]{1,200}\.(cubin|ptx|ttir|ttgir|llir|source|json|so)")
_MAX_FILES = 4096
_MAX_BYTES = 256 * 2**20


class TritonCache:
    """Compiled kernels by source, under `root`."""

    def __init__(self, root: Path, environment: str) -> None:
        """`environment` names whatever else the compilation depends on: versions, the device."""
        self._root = root
        self._environment = environment
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def restore(self, kernel: KernelCode, folder: Path) -> bool:
        """Copies what is kept for the kernel's source into a runner's Triton cache.

        Returns whether there was anything.
        """
        kept = self._root / self._key(kernel)
        if not kept.is_dir():
            return False
        mark_used(kept)
        with staged(folder) as staging:
            shutil.copytree(kept, staging)
        return True

    def harvest(self, kernel: KernelCode, folder: Path) -> bool:
        """Keeps what a runner's Triton cache holds more than is kept already.

        Returns whether there was anything new. Files that Triton would not write are left alone.
        """
        kept = self._root / self._key(kernel)
        new = [
            (path, kept / path.parent.name / path.name)
            for path in _files(folder)
            if not (kept / path.parent.name / path.name).exists()
        ]
        for source, target in new:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _copy(source, target)
        return bool(new)

    def _key(self, kernel: KernelCode) -> str:
        text = f"{self._environment}\0{kernel.kernel_type}\0{kernel.source_code}"
        return hashlib.sha256(text.encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """The files of a Triton cache, as far as they are some, within bounds."""
    count = size = 0
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not _FOLDER.fullmatch(entry.name) or not entry.is_dir():
            continue
        for path in sorted(entry.iterdir()):
            status = path.lstat()
            if not _FILE.fullmatch(path.name) or not stat.S_ISREG(status.st_mode):
                continue
            count += 1
            size += status.st_size
            if count > _MAX_FILES or size > _MAX_BYTES:
                return
            yield path


def _copy(source: Path, target: Path) -> None:
    """Publishes a copy under its name at once, and whole; follows no link."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as reading:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as writing:
            writing.write(reading.read(_MAX_BYTES))
    os.replace(writing.name, target)
