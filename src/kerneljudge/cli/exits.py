"""The exit codes of every command."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit"]


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    ACCEPTED = 0
    """Every kernel was accepted; the command did what it was asked."""
    NOT_ACCEPTED = 1
    """Judged, and not accepted."""
    USAGE = 2
    """The command line or the request is wrong."""
    INFRASTRUCTURE = 3
    """There is no verdict: the server failed or cannot be reached, or the job was cancelled."""
    INTERRUPTED = 130
    """Ctrl-C; the jobs that it waited for are cancelled."""
