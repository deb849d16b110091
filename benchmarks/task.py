"""The task that every system is given: `x + y` on two float32 matrices.

4096 × 1024 elements unless told otherwise: 16 MiB a matrix, 48 MiB read and written.

Imports nothing but the standard library, so that a peer's processes start as fast as they would
without us.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Task", "source"]

_KERNELS = Path(__file__).parent / "kernels"


@dataclass(frozen=True)
class Task:
    """The shape, and how often it is run."""

    rows: int = 4096
    """Rows of each matrix."""
    columns: int = 1024
    """Columns of each matrix."""
    checks: int = 2
    """Correctness trials of an evaluation."""
    trials: int = 100
    """Timed runs of each kernel in an evaluation."""

    @property
    def elements(self) -> int:
        """Elements of each matrix."""
        return self.rows * self.columns


def source(file: str, task: Task, revision: int = 0) -> str:
    """A source of `benchmarks/kernels/`, for the task's shape.

    Another revision names the kernel, the wrapper and the extension otherwise, so that neither a
    cache of whole sources nor one of their parts can know it.
    """
    text = (_KERNELS / file).read_text(encoding="utf-8")
    values = {"ROWS": task.rows, "COLUMNS": task.columns, "REVISION": revision}
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text
