"""The process of one judge: jobs come by its channel, and their verdicts go by it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kerneljudge.judging.cancellation import Cancellation, Cancelled
from kerneljudge.judging.job import judge
from kerneljudge.judging.machine import Machine
from kerneljudge.judging.permits import Permits
from kerneljudge.judging.protocol import (
    BuildEnded,
    BuildGranted,
    BuildWanted,
    Cancel,
    Done,
    Judge,
    JudgeConfiguration,
    Progress,
    Started,
)
from kerneljudge.runtime.channel import Channel, ChannelClosed
from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import JobReport

__all__ = ["serve"]

_Incoming = JudgeConfiguration | Judge | Cancel | BuildGranted


def serve(
    channel: Channel[_Incoming], configuration: JudgeConfiguration, hidden: SandboxLayer
) -> None:
    """Judges until the server closes the channel. `hidden` tells what of other GPUs is closed."""
    sending = threading.Lock()

    def tell(message: Started | Progress | Done | BuildWanted | BuildEnded) -> None:
        with sending:
            channel.send(message)

    permits = Permits(tell)
    machine = Machine(configuration, permits, hidden)
    tell(
        Started(
            environment=machine.environment,
            layers=machine.layers,
            transport=machine.transport,
            transport_reason=machine.transport_reason,
            memory_bytes=machine.memory_bytes,
        )
    )
    jobs = _Jobs(machine, tell, configuration.jobs)
    try:
        while True:
            match channel.receive():
                case Judge() as job:
                    jobs.begin(job)
                case Cancel(job_id=job_id):
                    jobs.cancel(job_id)
                case BuildGranted(number=number):
                    permits.grant(number)
    except ChannelClosed:
        # The server is gone: so is whoever would hear a verdict. The group is the judge's own: a
        # compiler that it started dies with it.
        machine.close()
        os.killpg(os.getpgrp(), signal.SIGKILL)


class _Jobs:
    """The jobs of this judge, a thread each."""

    def __init__(
        self, machine: Machine, tell: Callable[[Progress | Done], None], most: int
    ) -> None:
        self._machine = machine
        self._tell = tell
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="job")
        self._cancellations: dict[str, Cancellation] = {}

    def begin(self, job: Judge) -> None:
        """Judges a job. There is a thread for it: the server sends no more than that."""
        cancellation = self._cancellations[job.job_id] = Cancellation()
        self._pool.submit(self._judge, job, cancellation)

    def cancel(self, job_id: str) -> None:
        """Ends a job, unless it has ended."""
        cancellation = self._cancellations.get(job_id)
        if cancellation is not None:
            cancellation.cancel()

    def _judge(self, job: Judge, cancellation: Cancellation) -> None:
        def progress(report: JobReport) -> None:
            self._tell(Progress(job_id=job.job_id, report=report))

        try:
            self._machine.bind_thread()
            report = None
            with contextlib.suppress(Cancelled):
                report = judge(self._machine, job.request, progress, cancellation)
            # In this order: once the server knows, the same job may come again.
            del self._cancellations[job.job_id]
            self._tell(Done(job_id=job.job_id, report=report))
            self._machine.check_device()
        except ChannelClosed:
            pass  # the server is gone, and this process is about to end
        except BaseException:
            # Nothing is left to tell it with: the server ends the jobs, and starts another judge.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
