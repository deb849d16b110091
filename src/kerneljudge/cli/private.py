"""The server that a command uses: a running one, or a private one for as long as it takes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kerneljudge.client import ServerError

__all__ = ["private_server"]

START_SECONDS = 300.0
"""How long a server may take to start: on a cold disk, PyTorch alone takes a minute."""
STOP_SECONDS = 60.0
"""How long it may take to end."""

# Settings that would make a private server anything but private.
_NOT_PRIVATE = (
    "KERNELJUDGE_ADMIN_KEY_FILE",
    "KERNELJUDGE_TLS_CERTIFICATE",
    "KERNELJUDGE_TLS_KEY",
)

_OPTIONS = ("--host=127.0.0.1", "--port=0", "--until-eof")
_LISTENING = re.compile(r"KernelJudge listening on (http://\S+)")
_LOG_TAIL = 4000


@contextlib.contextmanager
def private_server() -> Iterator[str]:
    """Starts a server on a free port of this machine and stops it afterwards: its URL.

    It reads its settings from the environment, except that it listens for this machine alone and
    has a database and a state folder that go with it. It ends when this process does, however
    that comes. Raises `ServerError` where it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="kerneljudge-") as folder:
        log = Path(folder, "server.log")
        environment = {
            name: value for name, value in os.environ.items() if name not in _NOT_PRIVATE
        }
        with log.open("wb") as stream:
            process = subprocess.Popen(
                # -P: what lies in the current folder must not pass for a module of the server.
                [sys.executable, "-P", "-m", "kerneljudge", "serve", *_OPTIONS],
                env=environment
                | {
                    "KERNELJUDGE_STATE_DIR": folder,
                    "KERNELJUDGE_DATABASE": f"sqlite:///{folder}/jobs.db",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                # Ctrl-C is for this command, which then stops the server in order.
                start_new_session=True,
            )
        try:
            yield _address(process, log)
        finally:
            _stop(process)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    said = b""
    while True:
        found = _LISTENING.search(said.decode(errors="replace"))
        # Up to the end of the line: half a port is another port.
        if found and b"\n" in said[found.end() :]:
            return found[1]
        chunk = _read(process.stdout, deadline - time.monotonic())
        if not chunk:
            tail = log.read_text(errors="replace")[-_LOG_TAIL:].strip()
            state = (
                f"did not start within {START_SECONDS:g} s"
                if chunk is None
                else "ended before it listened"
            )
            raise ServerError(f"the private server {state}; it said:\n{tail}")
        said += chunk


def _read(stream: IO[bytes], seconds: float) -> bytes | None:
    """What can be read at once: empty at the end, None where nothing comes in time."""
    ready, _, _ = select.select([stream], [], [], max(seconds, 0))
    return stream.read1(65536) if ready else None  # type: ignore[attr-defined]


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    # The end of its standard input is the server's sign to stop; see `serve --until-eof`.
    process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
