"""Runners and builders as the judge sees them: processes that may do anything at any time."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter

from kerneljudge.runtime import orphans
from kerneljudge.runtime.channel import (
    Channel,
    ChannelBroken,
    ChannelClosed,
    ChannelTimeout,
)
from kerneljudge.runtime.messages import (
    Build,
    Exited,
    Failed,
    Fork,
    Forked,
    FromRunner,
    FromZygote,
    Preparation,
    Proceed,
    Ready,
    SandboxLayer,
    Waiting,
    ZygoteReady,
)
from kerneljudge.runtime.sandbox import unreachable_by_others
from kerneljudge.schema import FaultKind

__all__ = [
    "Child",
    "Killed",
    "Limits",
    "RunnerFault",
    "RunnerProcess",
    "ZygoteLost",
    "ZygoteProcess",
]

# The range that systemd hands out to services of no fixed user (systemd.exec(5), DynamicUser).
_FIRST_UID, _LAST_UID = 61184, 65519
_START_SECONDS = 120.0
_KILL_SECONDS = 60.0
_MEMORY_POLL_SECONDS = 0.1
_TAIL_BYTES = 16_384
_MAX_FRAME_BYTES = 16 * 2**20
"""What an untrusted process may say at once: the sources of a large extension fit."""

_KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "NCCL_NVLS_ENABLE",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST",
    "NVSHMEM_DISABLE_NVLS",
)

Answer = TypeVar("Answer", bound=BaseModel)


class RunnerFault(Exception):
    """A runner failed; the fault is that of the code that it was running."""

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        hint: str | None = None,
        traceback: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.traceback = traceback
        self.exit_code = exit_code


class Killed(RunnerFault):
    """A process died of a SIGKILL that the judge did not send: of its own, of an operator's, or of
    the system's for want of memory."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(
            kind,
            message,
            hint="It was killed twice, and not by the judge: look for a signal that the kernel"
            " sends to itself, or for more host memory than there is.",
            exit_code=-signal.SIGKILL,
        )


class ZygoteLost(Exception):
    """The zygote ended: the judge's own fault, and nobody's kernel's."""


class Limits(BaseModel):
    """What one runner or builder may use of the host."""

    memory_bytes: int
    """Resident memory of the process."""
    output_bytes: int = 16 * 2**20
    """What it may print."""


class ZygoteProcess:
    """The judge's zygote. Forks from any thread."""

    def __init__(
        self,
        device: Literal["cuda", "cpu"],
        limits: Limits,
        *,
        include_cache: Path,
        triton_seed: Path,
    ) -> None:
        """Starts the process; `wait_ready` waits for its imports."""
        self._device = device
        self._limits = limits
        self._include_cache = include_cache
        self._triton_seed = triton_seed
        self._folder = Path(tempfile.mkdtemp(prefix="kerneljudge-"))
        self._folder.chmod(0o711)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._requests = 0
        self._forked: dict[int, tuple[int, int]] = {}
        self._exits: dict[int, int] = {}
        self._ready = False
        self._lost = False
        ours, theirs = socket.socketpair()
        environment = {
            name: value for name, value in os.environ.items() if name in _KEPT_ENVIRONMENT
        }
        if "PYTHONPATH" in environment:
            # Runners change their folder: what is relative to this one must not be.
            environment["PYTHONPATH"] = os.pathsep.join(
                os.path.abspath(path) for path in environment["PYTHONPATH"].split(os.pathsep)
            )
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        environment["PYTHONUNBUFFERED"] = "1"
        # numpy's BLAS would start threads at its import, and a process with threads does not fork
        # safely.
        environment["OPENBLAS_NUM_THREADS"] = "1"
        environment["HOME"] = str(self._folder)
        if device == "cpu":
            environment["TRITON_INTERPRET"] = "1"
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kerneljudge.runtime.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        self._channel: Channel[Any] = Channel(ours, FromZygote, takes_descriptors=True)
        self._reader = threading.Thread(target=self._read, name="zygote-reader", daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Returns when it forks. Raises `ZygoteLost` if it ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._lost)
            self._check()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self._lost

    def close(self) -> None:
        """Ends it, and with it everything that it forked."""
        self._channel.shutdown()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _end_orphans()
        self._reader.join()
        with self._lock:
            self._channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def fork(
        self,
        role: Literal["runner", "builder"],
        incoming: TypeAdapter[Any],
        preparation: Preparation = "operators",
    ) -> Child:
        """A new process in a new scratch folder; a runner has the `preparation`.

        Raises `ZygoteLost`.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            mine, its = socket.socketpair()
            ours.callback(mine.close)
            theirs.callback(its.close)
            output_read, output_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ours.callback(os.close, output_read)
            theirs.callback(os.close, output_write)
            os.set_blocking(output_write, True)
            with self._changed:
                self._check()
                self._requests += 1
                number = self._requests
                uid = None
                if os.getuid() == 0 and unreachable_by_others() is None:
                    uid = _FIRST_UID + number % (_LAST_UID - _FIRST_UID + 1)
                scratch = self._folder / f"{role}-{number}"
                scratch.mkdir(mode=0o700)
                if uid is not None:
                    os.chown(scratch, uid, uid)
                request = Fork(
                    request=number,
                    role=role,
                    scratch=str(scratch),
                    uid=uid,
                    device=self._device,
                    preparation=preparation,
                    max_data_bytes=self._limits.memory_bytes if self._device == "cpu" else None,
                    include_cache=str(self._include_cache),
                    triton_seed=str(self._triton_seed),
                )
                try:
                    self._channel.send(request, [its.fileno(), output_write])
                except ChannelClosed:
                    raise ZygoteLost("the zygote process ended") from None
                self._changed.wait_for(lambda: number in self._forked or self._lost)
                self._check()
                pid, pidfd = self._forked.pop(number)
            ours.pop_all()  # they are the child's now
        channel: Channel[Any] = Channel(
            mine, incoming, takes_descriptors=False, max_frame_bytes=_MAX_FRAME_BYTES
        )
        return Child(self, pid, pidfd, channel, output_read, scratch, self._limits)

    def exit_code(self, pid: int, seconds: float) -> int | None:
        """How a forked process ended, once nothing that it started is left; None if it has not
        within `seconds`. Raises `ZygoteLost`."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._exits or self._lost, seconds)
            if pid in self._exits:
                return self._exits[pid]
            self._check()
            return None

    def forget(self, pid: int) -> None:
        """Drops what is remembered of an ended process."""
        with self._lock:
            self._exits.pop(pid, None)

    def _check(self) -> None:
        if self._lost:
            raise ZygoteLost("the zygote process ended")

    def _read(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                with self._changed:
                    if isinstance(message, ZygoteReady):
                        self._ready = True
                    elif isinstance(message, Forked):
                        (pidfd,) = self._channel.take_descriptors(1)
                        self._forked[message.request] = (message.pid, pidfd)
                    elif isinstance(message, Exited):
                        self._exits[message.pid] = message.exit_code
                    self._changed.notify_all()
        except (ChannelClosed, ChannelBroken, OSError):
            pass  # however the channel ended, there is no zygote behind it
        finally:
            with self._changed:
                self._lost = True
                self._changed.notify_all()


class Child:
    """A process forked by the zygote, and everything of it that the judge holds."""

    def __init__(
        self,
        zygote: ZygoteProcess,
        pid: int,
        pidfd: int,
        channel: Channel[Any],
        output: int,
        scratch: Path,
        limits: Limits,
    ) -> None:
        self.pid = pid
        self.scratch = scratch
        self._zygote = zygote
        self._pidfd = pidfd
        self._channel = channel
        self._output = output
        self._limits = limits
        self._printed = 0
        self._tail = b""
        self._requests = 0
        self._oom_kills = _oom_kills()
        self._stopped = False
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not _readable(self._pidfd, 0)

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        text = self._tail.decode(errors="replace")
        return text if self._printed <= _TAIL_BYTES else f"[…]{text}"

    def next_request(self) -> int:
        """The number of a new request."""
        self._requests += 1
        return self._requests

    def send(self, message: BaseModel, descriptors: Sequence[int] = (), *, deadline: float) -> None:
        """Sends a request. Raises `RunnerFault` if the process is dead or does not read."""
        try:
            self._channel.send(message, descriptors, deadline=deadline)
        except ChannelClosed:
            raise self._death() from None
        except ChannelTimeout:
            raise self._timeout() from None

    def receive(self, deadline: float) -> Any:
        """The next message of the process. Raises `RunnerFault` for everything else it may do."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._timeout()
            events = {
                descriptor
                for descriptor, _ in poll.poll(min(remaining, _MEMORY_POLL_SECONDS) * 1000)
            }
            if self._output in events and not self._drain():
                poll.unregister(self._output)
            try:
                message = self._channel.next()
            except ChannelClosed:
                raise self._death() from None
            except ChannelBroken as error:
                raise self._broken(str(error)) from None
            if message is not None:
                return message
            if self._pidfd in events:
                raise self._death()
            self._watch_memory()

    def stop(self) -> None:
        """Kills it with everything that it started, and does not wait for their end."""
        self._stopped = True
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stops it with everything that it started: it uses no CPU, and gives the device nothing
        new to do."""
        self._signal(signal.SIGSTOP)
        stopped: set[int] = set()
        while running := orphans.descendants(self.pid) - stopped:
            _send(running, signal.SIGSTOP)
            stopped |= running

    def thaw(self) -> None:
        """Has a frozen process go on, with everything that it started."""
        _send(orphans.descendants(self.pid), signal.SIGCONT)
        self._signal(signal.SIGCONT)

    def kill(self) -> int | None:
        """Kills it with everything that it started; its exit code, None if it resists."""
        self.stop()
        return self._zygote.exit_code(self.pid, _KILL_SECONDS)

    def close(self) -> None:
        """Ends it if it has not ended, and removes its folder."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ZygoteLost):
            self.kill()
        self._channel.close()
        os.close(self._output)
        os.close(self._pidfd)
        self._zygote.forget(self.pid)
        try:
            _remove(self.scratch)
        except OSError as error:
            print(f"a runner's folder is left behind: {error}", file=sys.stderr)

    def protocol_error(self, message: str) -> RunnerFault:
        """Kills the process, whose answer is none."""
        self.kill()
        return RunnerFault(FaultKind.PROTOCOL_ERROR, message)

    @property
    def has_children(self) -> bool:
        """Whether there are processes that it started. Of those that lost their parent, the zygote
        lets none live."""
        return bool(orphans.children(self.pid))

    def clear(self) -> None:
        """Forgets what a frozen process printed, and empties its folder."""
        while _readable(self._output, 0) and self._drain():
            pass
        self._printed = 0
        self._tail = b""
        _remove(*self.scratch.iterdir())

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, number)
            # Reached only while the process is there: its number is not another's by now.
            os.killpg(self.pid, number)

    def _drain(self) -> bool:
        """Reads what was printed; False once there will be no more."""
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return True
        self._printed += len(data)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if self._printed > self._limits.output_bytes:
            self.kill()
            raise RunnerFault(
                FaultKind.OUTPUT_LIMIT,
                f"the kernel printed more than {self._limits.output_bytes >> 20} MiB",
                hint="Remove the printing.",
            )
        return bool(data)

    def _watch_memory(self) -> None:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return
        if pages * os.sysconf("SC_PAGE_SIZE") > self._limits.memory_bytes:
            self.kill()
            raise RunnerFault(
                FaultKind.OUT_OF_MEMORY,
                "the process used more host memory than the"
                f" {self._limits.memory_bytes / 2**30:.1f} GiB it may have",
            )

    def _timeout(self) -> RunnerFault:
        self.kill()
        return RunnerFault(
            FaultKind.TIMEOUT,
            "the kernel did not end within the job's timeout; its process was killed",
            hint="Look for an endless loop, on the host or on the device, or raise `timeout`.",
        )

    def _broken(self, message: str) -> RunnerFault:
        # A process that dies may leave half a message behind: its death is then the news.
        if _readable(self._pidfd, 1.0):
            return self._death()
        return self.protocol_error(message)

    def _death(self) -> RunnerFault:
        """What the process died of. The channel is closed, or the process has ended."""
        code = self._zygote.exit_code(self.pid, 5.0)
        if code is None:
            code = self.kill()
            return RunnerFault(
                FaultKind.CRASHED, "the process closed its channel to the judge", exit_code=code
            )
        while _readable(self._output, 0) and self._drain():
            pass
        if code == -signal.SIGKILL and not self._stopped:
            if _oom_kills() > self._oom_kills:
                return Killed(
                    FaultKind.OUT_OF_MEMORY,
                    "the process ran out of host memory and was killed by the system",
                )
            return Killed(FaultKind.CRASHED, "the process was killed by SIGKILL")
        if code < 0:
            name = _signal_name(-code)
            return RunnerFault(
                FaultKind.CRASHED, f"the process was killed by {name}", exit_code=code
            )
        return RunnerFault(
            FaultKind.CRASHED,
            f"the process ended itself with exit code {code} before it answered",
            exit_code=code,
        )


class RunnerProcess:
    """A runner: asks it one thing at a time, and takes nothing for an answer but the answer."""

    def __init__(self, child: Child, layers: list[SandboxLayer], preparation: Preparation) -> None:
        self.child = child
        self.layers = layers
        self.preparation = preparation
        self.asked = 0
        """Requests that it has not answered."""
        self.build: Callable[[Build], tuple[BaseModel, float]] | None = None
        """Makes what the runner asks to have built, at any time; nothing may be, while unset. With
        the answer come the seconds that are not to be charged to the runner."""

    @classmethod
    def start(
        cls,
        zygote: ZygoteProcess,
        preparation: Preparation,
        disturbing: Callable[[], AbstractContextManager[None]],
    ) -> RunnerProcess:
        """Forks a runner and waits until it stands ready.

        What disturbs measurements, it does inside of `disturbing`, step by step. Raises
        `ZygoteLost`, or `RunnerFault` where the trusted start itself fails.
        """
        child = zygote.fork("runner", FromRunner, preparation)
        try:
            deadline = time.monotonic() + _START_SECONDS
            message = child.receive(deadline)
            while isinstance(message, Waiting):
                with disturbing():
                    child.send(Proceed(request=child.next_request()), deadline=deadline)
                    message = child.receive(deadline)
        except BaseException as error:
            if isinstance(error, RunnerFault):
                error.traceback = child.printed
            child.close()
            raise
        if not isinstance(message, Ready):
            child.close()
            raise RunnerFault(FaultKind.PROTOCOL_ERROR, "the runner did not start")
        return cls(child, message.layers, preparation)

    def ask(
        self,
        request: type[BaseModel],
        answer: type[Answer],
        *,
        deadline: float,
        descriptors: Sequence[int] = (),
        **fields: Any,
    ) -> Answer:
        """Sends a request and returns its answer. Raises `RunnerFault`."""
        number = self.begin(request, deadline=deadline, descriptors=descriptors, **fields)
        return self.finish(number, answer, deadline=deadline)

    def begin(
        self,
        request: type[BaseModel],
        *,
        deadline: float,
        descriptors: Sequence[int] = (),
        **fields: Any,
    ) -> int:
        """Sends a request; `finish` takes its number."""
        self.asked += 1
        number = self.child.next_request()
        self.child.send(request(request=number, **fields), descriptors, deadline=deadline)
        return number

    def finish(self, number: int, answer: type[Answer], *, deadline: float) -> Answer:
        """Waits for the answer, and has built what the runner asks for meanwhile."""
        while True:
            message = self.child.receive(deadline)
            if getattr(message, "request", None) != number:
                raise self.child.protocol_error(
                    f"the process sent a {message.type!r} that answers no request of the judge's"
                )
            if isinstance(message, answer):
                self.asked -= 1
                return message
            if isinstance(message, Failed):
                self.asked -= 1
                raise RunnerFault(
                    FaultKind(message.kind),
                    message.message,
                    hint=message.hint,
                    traceback=message.traceback,
                )
            if not isinstance(message, Build) or self.build is None:
                raise self.child.protocol_error(
                    f"the process answered with a {message.type!r} that was not asked for"
                )
            built, waited = self.build(message)
            deadline += waited
            self.child.send(built, deadline=deadline)

    def end(self) -> None:
        """Kills it. Raises `ZygoteLost`."""
        self.child.kill()

    def close(self) -> None:
        """Ends it if it has not ended, and removes its folder."""
        self.build = None
        self.child.close()


def _send(pids: Iterable[int], number: int) -> None:
    """A signal to each that is there still, and may be sent one."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _remove(*paths: Path) -> None:
    """Removes what submitted code has made, however deep its folders are, and however closed.

    Raises `OSError` where it cannot be.
    """

    def run(*command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command, "--", *map(str, paths)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )

    remove = ("rm", "-rf", "--one-file-system")
    done = run(*remove)
    if done.returncode:
        run("chmod", "-R", "u+rwX")
        done = run(*remove)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip()[:1000])


def _end_orphans() -> None:
    """Kills what a zygote that was killed left to this process, to the last descendant: runners
    and builders die with it, and what they started does not."""
    while strays := [pid for pid in orphans.children() if _is_of_another_session(pid)]:
        for pid in strays:
            orphans.kill(pid)
            os.waitpid(pid, 0)


def _is_of_another_session(pid: int) -> bool:
    try:
        return os.getsid(pid) != os.getsid(0)
    except ProcessLookupError:
        return False  # a compiler of the judge's own, which has ended meanwhile


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal has no name of its own


def _readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within `seconds`; of any descriptor, unlike select."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _oom_kills() -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
