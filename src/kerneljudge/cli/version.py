"""`kerneljudge version`."""

from __future__ import annotations

import kerneljudge
from kerneljudge.cli.console import OUT

__all__ = ["version"]


def version() -> None:
    """Print the version."""
    OUT.print(f"kerneljudge {kerneljudge.__version__}", markup=False)
