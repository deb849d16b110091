"""The judges of this machine, one process a device, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from kerneljudge.judging.protocol import (
    Done,
    FromJudge,
    Judge,
    JudgeConfiguration,
    Progress,
    Started,
)
from kerneljudge.runtime.channel import Channel, ChannelBroken, ChannelClosed
from kerneljudge.schema import JobReport, JobRequest
from kerneljudge.service.evaluator import DeviceState, EvaluatorUnavailable
from kerneljudge.service.settings import Settings

__all__ = ["Fleet", "visible_gpus"]

_LOG = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0
_ZYGOTE_SECONDS = 10.0
_HOST_MEMORY_SHARE = 0.5


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would hold for each GPU that this process may use, one a GPU.

    Asked of nvidia-smi, so that the server opens no device; empty where there is no GPU.
    """
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    uuids = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("GPU-")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return uuids
    named = [name.strip() for name in chosen.split(",") if name.strip()]
    visible = []
    for name in named:
        if name.isdigit() and int(name) < len(uuids):
            visible.append(uuids[int(name)])
        elif name.startswith(("GPU-", "MIG-")):
            visible.append(name)
        else:
            # As in CUDA: an entry that names no device hides every one after it.
            break
    return visible


@dataclass
class _Member:
    """One device's judge."""

    index: int
    name: str
    kind: Literal["cuda", "cpu"]
    gpu: str | None
    process: subprocess.Popen[bytes] | None = None
    channel: Channel[Started | Progress | Done] | None = None
    sending: threading.Lock = field(default_factory=threading.Lock)
    started: Started | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    jobs: dict[str, _Pending] = field(default_factory=dict)
    supervisor: asyncio.Task[None] | None = None


@dataclass
class _Pending:
    """A job that a judge has."""

    progress: Callable[[JobReport], None]
    done: asyncio.Future[JobReport]


class Fleet:
    """Implements `Evaluator` over real judges. Belongs to the event loop that starts it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._members = [
            _Member(index, name, kind, gpu)
            for index, (name, kind, gpu) in enumerate(_choose(settings.devices))
        ]
        self._stopping = False

    async def start(self) -> None:
        """Returns when every judge takes jobs.

        Raises `EvaluatorUnavailable` if one of them cannot be started.
        """
        self._settings.cache_dir.mkdir(parents=True, exist_ok=True)
        for member in self._members:
            member.supervisor = asyncio.create_task(self._supervise(member))
        for member in self._members:
            waiting = asyncio.create_task(member.ready.wait())
            supervisor = member.supervisor
            assert supervisor is not None
            await asyncio.wait({waiting, supervisor}, return_when=asyncio.FIRST_COMPLETED)
            if supervisor.done():
                waiting.cancel()
                await self.stop()
                raise EvaluatorUnavailable(
                    f"the judge of {member.name} did not start; its own message is above"
                )

    async def stop(self) -> None:
        """Ends every judge, and with it its zygote and runners."""
        self._stopping = True
        for member in self._members:
            if member.channel is not None:
                member.channel.shutdown()
        for member in self._members:
            if member.supervisor is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await member.supervisor

    def devices(self) -> list[DeviceState]:
        """Every configured device."""
        return [
            DeviceState(
                index=member.index,
                name=member.name,
                ready=member.ready.is_set(),
                environment=member.started.environment if member.started else None,
                jobs=len(member.jobs),
            )
            for member in self._members
        ]

    def sandbox(self) -> dict[str, list[dict[str, object]]]:
        """For each ready device, the layers of confinement that its runners have."""
        return {
            member.name: [layer.model_dump() for layer in member.started.layers]
            for member in self._members
            if member.started is not None
        }

    async def judge(
        self, job_id: str, request: JobRequest, progress: Callable[[JobReport], None]
    ) -> tuple[JobReport, int]:
        """Judges a job on the device with the fewest. Raises `EvaluatorUnavailable`."""
        ready = [member for member in self._members if member.ready.is_set()]
        if not ready:
            raise EvaluatorUnavailable("no device is ready; try again in a few seconds")
        member = min(ready, key=lambda candidate: len(candidate.jobs))
        channel = member.channel
        assert channel is not None
        pending = _Pending(progress, asyncio.get_running_loop().create_future())
        member.jobs[job_id] = pending
        try:
            message = Judge(job_id=job_id, request=request)
            await asyncio.to_thread(_send, member, channel, message)
            return await pending.done, member.index
        except ChannelClosed as error:
            raise EvaluatorUnavailable(f"the judge of {member.name} ended") from error
        finally:
            member.jobs.pop(job_id, None)

    async def _supervise(self, member: _Member) -> None:
        """Runs the member's judge, and another whenever one ends; not one that never started."""
        while True:
            try:
                await self._run(member)
            except OSError:
                # The system has no process or no memory to give now; it may have, later.
                _LOG.exception("the judge of %s could not be started", member.name)
            if self._stopping or member.started is None:
                return
            _LOG.error("the judge of %s ended; starting another", member.name)
            await asyncio.sleep(_RESTART_SECONDS)
            if self._stopping:
                return

    async def _run(self, member: _Member) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        # The judge's own, so that nothing of it stays when it ends, however it ends. Sandboxed
        # users pass through it to their own folders in it.
        folder = tempfile.mkdtemp(prefix="kerneljudge-")
        os.chmod(folder, 0o711)
        environment["TMPDIR"] = folder
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = member.gpu or ""
        with theirs:
            member.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kerneljudge.judging", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Standard output is the server's own, for what scripts read of it.
                stdout=sys.stderr.fileno(),
                env=environment,
                start_new_session=True,
            )
        channel: Channel[Started | Progress | Done] = Channel(
            ours, FromJudge, takes_descriptors=False
        )
        member.channel = channel
        ended = loop.create_future()

        def readable() -> None:
            try:
                while (message := channel.next()) is not None:
                    self._take(member, message)
            except (ChannelClosed, ChannelBroken) as error:
                loop.remove_reader(channel.fileno())
                ended.set_result(error)

        try:
            _send(member, channel, self._configuration(member))
            loop.add_reader(channel.fileno(), readable)
            await ended
        except ChannelClosed:
            _LOG.error("the judge of %s ended before it was configured", member.name)
        finally:
            member.ready.clear()
            channel.shutdown()
            await asyncio.to_thread(_end, member.process)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            channel.close()
            for pending in member.jobs.values():
                if not pending.done.done():
                    pending.done.set_exception(
                        EvaluatorUnavailable(f"the judge of {member.name} ended during the job")
                    )

    def _take(self, member: _Member, message: Started | Progress | Done) -> None:
        if isinstance(message, Started):
            member.started = message
            member.ready.set()
            return
        pending = member.jobs.get(message.job_id)
        if pending is None or pending.done.done():
            return
        if isinstance(message, Progress):
            pending.progress(message.report)
        else:
            pending.done.set_result(message.report)

    def _configuration(self, member: _Member) -> JudgeConfiguration:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return JudgeConfiguration(
            device=member.kind,
            name=member.name,
            cache=self._settings.cache_dir,
            standby=self._settings.standby,
            host_memory_bytes=self._settings.runner_memory_bytes
            or int(memory * _HOST_MEMORY_SHARE),
        )


def _choose(wanted: tuple[str, ...]) -> list[tuple[str, Literal["cuda", "cpu"], str | None]]:
    """(name, kind, GPU) of every device. Raises `EvaluatorUnavailable` for one that is not."""
    gpus = visible_gpus() if wanted != ("cpu",) else []
    if wanted == ("auto",):
        if gpus:
            return [(f"cuda:{number}", "cuda", gpu) for number, gpu in enumerate(gpus)]
        return [("cpu", "cpu", None)]
    chosen: list[tuple[str, Literal["cuda", "cpu"], str | None]] = []
    for name in wanted:
        if name == "cpu":
            chosen.append((name, "cpu", None))
            continue
        number = int(name.removeprefix("cuda:"))
        if number >= len(gpus):
            raise EvaluatorUnavailable(f"{name} was asked for; this machine has {len(gpus)} GPU(s)")
        chosen.append((name, "cuda", gpus[number]))
    return chosen


def _send(
    member: _Member,
    channel: Channel[Started | Progress | Done],
    message: Judge | JudgeConfiguration,
) -> None:
    with member.sending:
        channel.send(message)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Waits for a judge to end, and ends what is left of its process group.

    The zygote, which is of the group, is given the time to kill what it has forked.
    """
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + _ZYGOTE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
