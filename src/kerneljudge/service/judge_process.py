"""One judge, as the server sees it: a process, a folder of its own, and a channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kerneljudge.judging.protocol import (
    BuildEnded,
    BuildGranted,
    BuildWanted,
    Cancel,
    Done,
    FromJudge,
    Judge,
    JudgeConfiguration,
    Progress,
    Started,
)
from kerneljudge.runtime.channel import Channel, ChannelBroken, ChannelClosed

__all__ = ["JudgeProcess", "Received", "Sent"]

Received = Progress | Done | BuildWanted | BuildEnded
Sent = JudgeConfiguration | Judge | Cancel | BuildGranted

_END_SECONDS = 20.0
_GROUP_SECONDS = 10.0
_ZYGOTE = b"kerneljudge.runtime.zygote"


class JudgeProcess:
    """Belongs to the event loop that starts it. `close` must be awaited, whatever happens."""

    def __init__(self, gpu: str | None, take: Callable[[Received], None]) -> None:
        """Starts the process; `take` gets what it says once it takes jobs. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._take = take
        self.stopped = False
        """Whether it was told to end."""
        self.started: asyncio.Future[Started] = self._loop.create_future()
        """Done when it takes jobs."""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the process says nothing any more."""
        with contextlib.ExitStack() as stack:
            # The judge's own, so that nothing of it stays when it ends, however it ends. Sandboxed
            # users pass through it to their own folders in it.
            self._folder = tempfile.mkdtemp(prefix="kerneljudge-")
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            os.chmod(self._folder, 0o711)
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "kerneljudge.judging", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # Standard output is the server's own, for what scripts read of it.
                    stdout=sys.stderr.fileno(),
                    env=os.environ
                    | {
                        "TMPDIR": self._folder,
                        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                        "CUDA_VISIBLE_DEVICES": gpu or "",
                    },
                    start_new_session=True,
                )
            stack.pop_all()
        self._channel: Channel[Started | Received] = Channel(
            ours, FromJudge, takes_descriptors=False
        )
        self._unsent: queue.SimpleQueue[tuple[Sent, Callable[[Exception], None]] | None] = (
            queue.SimpleQueue()
        )
        self._writer = threading.Thread(target=self._write, name="to-judge", daemon=True)
        self._writer.start()
        self._loop.add_reader(self._channel.fileno(), self._read)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def send(self, message: Sent, failed: Callable[[Exception], None] = lambda _: None) -> None:
        """Sends a message, after all that were sent before, and does not wait for it.

        `failed` is called with the reason if it is too large for the channel.
        """
        self._unsent.put((message, failed))

    def stop(self) -> None:
        """Has it end itself, and with it its zygote and runners."""
        self.stopped = True
        self._channel.shutdown()

    def kill(self) -> None:
        """Kills it; what it started ends with it."""
        self._process.kill()

    async def close(self) -> str:
        """Ends it, with all that it started, and removes its folder; says how it ended."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.shutdown()
        self._unsent.put(None)
        code = await asyncio.to_thread(self._end)
        self._channel.close()
        if code >= 0:
            return f"ended with exit code {code}"
        known = -code in set(signal.Signals)
        return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"

    def _read(self) -> None:
        try:
            while (message := self._channel.next()) is not None:
                if isinstance(message, Started):
                    self.started.set_result(message)
                else:
                    self._take(message)
        except (ChannelClosed, ChannelBroken):
            self._loop.remove_reader(self._channel.fileno())
            if not self.ended.done():
                self.ended.set_result(None)

    def _write(self) -> None:
        while (item := self._unsent.get()) is not None:
            message, failed = item
            try:
                self._channel.send(message)
            except ChannelClosed:
                return  # `ended` tells it
            except ChannelBroken as error:
                self._loop.call_soon_threadsafe(failed, error)

    def _end(self) -> int:
        """Waits for the process to end, and ends what is left of its group.

        The zygote, which is of the group, is given the time to kill what it has forked.
        """
        self._writer.join()
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        _wait_until(lambda: not any(_ZYGOTE in line for line in self._group()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _wait_until(lambda: not self._group())
        shutil.rmtree(self._folder, ignore_errors=True)
        return code

    def _group(self) -> list[bytes]:
        """The command lines of the processes of its group that have not ended."""
        lines = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if os.getpgid(int(entry.name)) == self._process.pid:
                        stat = Path(entry.path, "stat").read_bytes()
                        # The name, in parentheses, may hold anything; the state is after it.
                        if stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X"):
                            lines.append(Path(entry.path, "cmdline").read_bytes())
        return lines


def _wait_until(true: Callable[[], bool]) -> None:
    """Returns when that is true, and after 10 seconds."""
    deadline = time.monotonic() + _GROUP_SECONDS
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
