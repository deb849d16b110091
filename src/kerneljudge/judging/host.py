"""What this process may use of its machine: of a container's share, where it is in one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpus", "memory_bytes"]

_ROOT = Path("/")


def memory_bytes(root: Path = _ROOT) -> int:
    """Bytes of memory: the machine's, or the least that a control group leaves of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _words(folder / name)
            if limit and limit[0].isdigit():
                found = min(found, int(limit[0]))
    return found


def cpus(root: Path = _ROOT) -> int:
    """CPUs: those that this process may run on, or the least that a control group leaves of
    them."""
    found = float(len(os.sched_getaffinity(0)))
    for folder in _groups(root, "cpu"):
        limit = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0].isdigit():
            found = min(found, int(limit[0]) / int(limit[1]))
    return max(1, math.ceil(found))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, and of those around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one hierarchy, with no controllers named; version 1 one a controller.
        if controllers == "":
            top = mounted
        elif controller in controllers.split(","):
            top = mounted / controller
        else:
            continue
        group = top / path.lstrip("/")
        yield group
        for around in group.parents:
            if not around.is_relative_to(top):
                break
            yield around


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
