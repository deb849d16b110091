"""Entry of `python -m kerneljudge.judging DESCRIPTOR`: one judge, on one device."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

from kerneljudge.judging.job import judge
from kerneljudge.judging.machine import Machine
from kerneljudge.judging.protocol import (
    Done,
    Judge,
    JudgeConfiguration,
    Progress,
    Started,
    ToJudge,
)
from kerneljudge.runtime.channel import Channel, ChannelClosed
from kerneljudge.schema import JobReport

_JOBS = 8
"""Jobs that a judge works on at once: one on the device, the others reading and building."""


def main() -> None:
    """Judges until the server closes the channel."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), ToJudge, takes_descriptors=False)
    configuration = channel.receive()
    if not isinstance(configuration, JudgeConfiguration):
        raise SystemExit("the first message to a judge is its configuration")
    machine = Machine(configuration)
    sending = threading.Lock()

    def tell(message: Started | Progress | Done) -> None:
        with sending:
            channel.send(message)

    def work(job: Judge) -> None:
        machine.bind_thread()

        def progress(report: JobReport) -> None:
            tell(Progress(job_id=job.job_id, report=report))

        tell(Done(job_id=job.job_id, report=judge(machine, job.request, progress)))

    def finish(job: Judge) -> None:
        try:
            work(job)
            machine.check_device()
        except BaseException:
            # Nothing is left to tell it with: the server ends the jobs, and starts another judge.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    tell(
        Started(
            environment=machine.environment,
            layers=machine.layers,
            transport=machine.transport,
            transport_reason=machine.transport_reason,
        )
    )
    pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="job")
    try:
        while True:
            message = channel.receive()
            if isinstance(message, Judge):
                pool.submit(finish, message)
    except ChannelClosed:
        # The server is gone: so is whoever would hear a verdict. The group is the judge's own: a
        # compiler that it started dies with it.
        machine.close()
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
