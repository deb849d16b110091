"""Folders that the judge puts into the folder of a process that runs submitted code."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["staged"]


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path for a folder that is moved to `target` once it is made, with its owner.

    It is made where no other process writes: in its own folder, a process could at any time put a
    link where the judge is about to write, and the judge may be root. Raises `OSError` where there
    is a `target` already.
    """
    owner = target.parent.stat()
    with tempfile.TemporaryDirectory(prefix="staged-", dir=target.parent.parent) as folder:
        staging = Path(folder, target.name)
        yield staging
        for path in (*staging.rglob("*"), staging):
            os.chown(path, owner.st_uid, owner.st_gid)
        staging.rename(target)
