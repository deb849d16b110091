"""What processes there are, from /proc. One that ends while it is looked at is not there."""

from __future__ import annotations

from pathlib import Path


def stat(pid: int) -> list[str] | None:
    """The fields after the name of a process's stat (proc(5)): its state, its parent, and so on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def stands_still(pid: int) -> bool:
    """Whether a process is stopped, or has ended."""
    fields = stat(pid)
    return fields is None or fields[0] in "TZX"


def parent(pid: int) -> int | None:
    """The process that another one is a child of."""
    fields = stat(pid)
    return None if fields is None else int(fields[1])


def descendants(pid: int) -> set[int]:
    """All living processes that descend from one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = stat(int(entry.name))
            if fields is not None and fields[0] not in "ZX":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def command_lines(pids: set[int]) -> dict[int, str]:
    """What those processes are."""
    lines = {}
    for pid in pids:
        try:
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines
