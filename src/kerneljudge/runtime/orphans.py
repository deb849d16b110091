"""Processes that outlive what started them, and end here all the same."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

__all__ = ["adopt", "children", "descendants", "kill"]

_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """Makes descendants whose parents have ended the children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(parent: int | None = None) -> list[int]:
    """The living and dead children of a process, this one by default, from /proc."""
    parent = os.getpid() if parent is None else parent
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name, in parentheses, may hold anything; the parent's number is two fields after it.
        if int(stat.rpartition(b")")[2].split()[1]) == parent:
            found.append(int(entry.name))
    return found


def descendants(pid: int) -> set[int]:
    """What a process has started, and what that has, as far as its parents live."""
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        more = set(_children_of_threads(unseen.pop())) - found
        found |= more
        unseen += more
    return found


def _children_of_threads(pid: int) -> list[int]:
    """Children by the kernel's own lists, quicker than by looking at every process.

    They are exact while nothing of them ends (proc(5), CONFIG_PROC_CHILDREN).
    """
    found: list[int] = []
    for thread in _threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


def _threads(pid: int) -> list[str]:
    """None of a process that has ended, or ends meanwhile."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill(pid: int) -> None:
    """Kills a process and the group that it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
