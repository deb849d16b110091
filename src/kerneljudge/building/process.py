"""Runs compilers: no shell, no inherited environment, bounded output."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Finished", "bounded", "run"]

MAX_LOG_BYTES = 64 * 1024
"""Compiler output that is kept: its beginning, where the first error is."""

_OUT_OF_MEMORY = (
    "out of memory",
    "Cannot allocate memory",
    "virtual memory exhausted",
    "Killed signal terminated program",
    "died due to signal 9",
    "std::bad_alloc",
    "cannot map section",
    "memory exhausted",
)


@dataclass(frozen=True)
class Finished:
    """A compiler that has ended."""

    returncode: int
    """Its exit code; negative for a signal."""
    output: str
    """What it printed on both streams, bounded."""

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.returncode == 0

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed for want of memory, as far as it said."""
        return not self.ok and (
            self.returncode == -9 or any(words in self.output for words in _OUT_OF_MEMORY)
        )


def run(argv: Sequence[str | Path], *, scratch: Path, search: Sequence[Path] = ()) -> Finished:
    """Runs a compiler in `scratch` to its end, with nothing of this process's environment.

    `search` are the folders of its PATH, before the system's. Output beyond `MAX_LOG_BYTES` is
    read and dropped, so that a compiler that prints without end does not fill the memory here.
    Raises OSError where the program cannot be started.
    """
    path = os.pathsep.join([*map(str, search), "/usr/local/bin", "/usr/bin", "/bin"])
    # TMPDIR and HOME: the only folder that it may write. LC_ALL: plain quotes in messages.
    environment = {
        "PATH": path,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LC_ALL": "C",
        "CCACHE_DISABLE": "1",
    }
    with subprocess.Popen(
        [str(argument) for argument in argv],
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        kept = process.stdout.read(MAX_LOG_BYTES)
        dropped = 0
        while block := process.stdout.read(MAX_LOG_BYTES):
            dropped += len(block)
        returncode = process.wait()
    text = kept.decode(errors="replace")
    if dropped:
        text += f"\n[{dropped} more bytes of output]"
    return Finished(returncode, text)


def bounded(text: str) -> str:
    """`text` cut to what a result may carry as its log."""
    if len(text) <= MAX_LOG_BYTES:
        return text
    return text[:MAX_LOG_BYTES] + f"\n[{len(text) - MAX_LOG_BYTES} more characters]"
