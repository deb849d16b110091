"""Bounds what the caches take on disk: whatever was unused for longest goes first."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Evicted", "evict", "mark_used"]

_KEPT = 0.9
"""Share of the bound that is left, so that the next build does not begin another round."""
GRACE_SECONDS = 600.0
"""An entry is left alone for so long after its last use: a job may be copying from it."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What one round did."""

    entries: int
    """Entries that went."""
    freed_bytes: int
    """What they took."""
    kept_bytes: int
    """What is left."""


def mark_used(entry: Path) -> None:
    """Notes that an entry, a folder, was used now."""
    os.utime(entry)


def evict(
    root: Path,
    entries: Callable[[], Iterable[Path]],
    max_bytes: int,
    clock: Callable[[], float] = time.time,
) -> Evicted | None:
    """Removes entries, folders below `root`, until those that are left take less than `max_bytes`.

    Those used within `GRACE_SECONDS` stay, even above the bound. None where another process is at
    it. An entry goes whole or not at all: it is renamed first.
    """
    with (root / ".evicting").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        for left_over in root.glob(".evicted-*"):
            shutil.rmtree(left_over)
        found = sorted(_measured(entries()), key=lambda entry: entry[1])
        kept = sum(size for _, _, size in found)
        if kept <= max_bytes:
            return Evicted(0, 0, kept)
        count = freed = 0
        for path, used, size in found:
            if kept - freed <= max_bytes * _KEPT or used > clock() - GRACE_SECONDS:
                break
            gone = root / f".evicted-{path.name}"
            if path.stat().st_mtime != used:
                continue  # used meanwhile
            path.rename(gone)
            shutil.rmtree(gone)
            count, freed = count + 1, freed + size
        return Evicted(count, freed, kept - freed)


def _measured(entries: Iterable[Path]) -> Iterable[tuple[Path, float, int]]:
    """(entry, time of its last use, bytes on disk) of those that are still there."""
    for path in entries:
        try:
            used = path.stat().st_mtime
            size = sum(_bytes(file) for file in (path, *path.rglob("*")))
        except FileNotFoundError:
            continue  # replaced meanwhile: it is younger than what is looked for
        yield path, used, size


def _bytes(path: Path) -> int:
    return path.lstat().st_blocks * 512
