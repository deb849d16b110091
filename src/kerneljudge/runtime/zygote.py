"""The process that others are forked from: Python, torch and Triton imported, no device opened.

It belongs to one judge, and is told the descriptor of their channel: when that closes, everything
it started is killed, and it ends. It runs no submitted code and holds nothing worth reading. It is
the reaper of its descendants, so that a runner's own children cannot outlive the runner by
leaving its session.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from kerneljudge import building
from kerneljudge.runtime import orphans
from kerneljudge.runtime.channel import CHANNEL_DESCRIPTOR, Channel, ChannelClosed
from kerneljudge.runtime.messages import Exited, Fork, Forked, ToZygote, ZygoteReady

__all__ = ["main"]

_WARM = (
    "torch",
    "torch.utils.cpp_extension",
    "torch.nn.functional",
    "triton",
    "triton.language",
    "triton.compiler",
    "triton.experimental.gluon",
    "tree_sitter_cuda",
    "cuda.bindings.driver",
    "cuda.bindings.nvrtc",
    "kerneljudge.languages",
    "kerneljudge.runtime.runner",
    "kerneljudge.runtime.builder",
)
"""Imported once, so that no job waits for them. None of them starts a thread or opens a device."""


def _warm() -> None:
    for name in _WARM:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A machine without it says so where it is asked for: in `doctor`, or in a build.
            if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
                raise
    building.Toolchain.detect()
    if "triton" in sys.modules:
        # Hashes Triton's own sources, for its cache keys; remembered for all children.
        _triton_key()()
    gc.collect()
    gc.freeze()


def _triton_key() -> Callable[[], str]:
    """Triton's own function, which has moved between its versions."""
    for name in ("triton.runtime.cache", "triton.compiler.compiler"):
        found: Callable[[], str] | None = getattr(importlib.import_module(name), "triton_key", None)
        if found is not None:
            return found
    raise ImportError("this version of Triton has no triton_key; install one from 3.4 to 3.9")


class Zygote:
    """Forks on request, and buries what it forked."""

    def __init__(self, channel: Channel[Fork], entries: dict[str, Callable[[Fork], None]]) -> None:
        self._channel = channel
        self._entries = entries
        self._children: set[int] = set()

    def serve(self) -> None:
        """Answers until the judge closes the channel."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        self._channel.send(ZygoteReady())
        try:
            while True:
                poll.poll()
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                self._reap()
                while (request := self._channel.next()) is not None:
                    self._fork(request)
        except ChannelClosed:
            return
        finally:
            for pid in self._children:
                orphans.kill(pid)
            for pid in self._children:
                os.waitpid(pid, 0)
            self._children.clear()
            self._kill_strays()

    def _fork(self, request: Fork) -> None:
        control, output = self._channel.take_descriptors(2)
        pid = os.fork()
        if pid == 0:
            self._become(request, control, output)
        os.close(control)
        os.close(output)
        self._children.add(pid)
        pidfd = os.pidfd_open(pid)
        self._channel.send(Forked(request=request.request, pid=pid), [pidfd])
        os.close(pidfd)

    def _become(self, request: Fork, control: int, output: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for source, target in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            if control != CHANNEL_DESCRIPTOR:
                os.dup2(control, CHANNEL_DESCRIPTOR)
            os.set_inheritable(CHANNEL_DESCRIPTOR, False)
            # The judge's channel, the wake-up pipe and other runners' pidfds are not for it.
            os.closerange(CHANNEL_DESCRIPTOR + 1, os.sysconf("SC_OPEN_MAX"))
            self._entries[request.role](request)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._children:
                self._children.discard(pid)
                self._kill_strays()
                code = os.waitstatus_to_exitcode(status)
                self._channel.send(Exited(pid=pid, exit_code=code))
        self._kill_strays()

    def _kill_strays(self) -> None:
        """Kills what was left to this process by the death of its parent, to the last descendant:
        each death may leave more."""
        while strays := [pid for pid in orphans.children() if pid not in self._children]:
            for pid in strays:
                orphans.kill(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def main() -> None:
    """Entry of `python -m kerneljudge.runtime.zygote DESCRIPTOR`."""
    orphans.adopt()
    sock = socket.socket(fileno=int(sys.argv[1]))
    channel = Channel(sock, ToZygote, takes_descriptors=True)
    # The driver's library starts a thread when torch counts GPUs. It waits, and holds no lock that
    # a forked process would need.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    _warm()
    from kerneljudge.runtime import builder, runner, warmup

    warmup.close_nvml()

    Zygote(channel, {"runner": runner.main, "builder": builder.main}).serve()


if __name__ == "__main__":
    main()
