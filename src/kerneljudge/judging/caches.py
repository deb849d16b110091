"""The folders that a machine's judges share, and the bound on what they take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kerneljudge.building import BuildCache, Evicted, evict

__all__ = ["BUILDS", "TRITON_KERNELS", "evict_caches"]

BUILDS = "builds"
"""What builders made, by all that it depends on."""
TRITON_KERNELS = "triton-kernels"
"""What Triton compiled in runners, by source."""


def evict_caches(folder: Path, max_bytes: int) -> Evicted | None:
    """Removes the longest unused entries of both caches, so that together they take no more.

    None where another process is at it.
    """
    builds = BuildCache(folder / BUILDS)
    kernels = folder / TRITON_KERNELS
    kernels.mkdir(mode=0o700, parents=True, exist_ok=True)

    def entries() -> Iterator[Path]:
        yield from builds.entries()
        yield from kernels.iterdir()

    return evict(folder, entries, max_bytes)
