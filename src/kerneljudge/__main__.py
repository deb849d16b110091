"""`python -m kerneljudge` is the command `kerneljudge`."""

from __future__ import annotations

from kerneljudge.cli import app

if __name__ == "__main__":
    app(prog_name="kerneljudge")
