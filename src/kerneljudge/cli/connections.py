"""The server that a command talks to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kerneljudge.cli.private import private_server
from kerneljudge.client import KernelJudgeClient

__all__ = ["connect"]


@contextlib.contextmanager
def connect(url: str | None, api_key: str | None) -> Iterator[KernelJudgeClient]:
    """A client of the server at `url`, or of a private one for as long as the command takes.

    Raises `ServerError` where the private server does not start.
    """
    with contextlib.ExitStack() as stack:
        address = url if url is not None else stack.enter_context(private_server())
        yield stack.enter_context(KernelJudgeClient(address, api_key=api_key))
