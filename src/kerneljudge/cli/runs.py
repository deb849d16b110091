"""Many jobs, some at a time, with a display of how far they are."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kerneljudge.cli.console import ERR, plain
from kerneljudge.client import KernelJudgeClient, KernelJudgeError

__all__ = ["Call", "devices_ready", "run_all"]

_Answer = TypeVar("_Answer")

Call = tuple[str, Callable[[], _Answer]]
"""A name to show, and what to do."""

_POLL_SECONDS = 0.5
_RUNNING = ("submitted", "compiling", "validating", "profiling")


def devices_ready(client: KernelJudgeClient) -> int:
    """How many devices of the server take jobs."""
    return sum(device.ready for device in client.health_check().devices)


def run_all(
    client: KernelJudgeClient,
    calls: Sequence[Call[_Answer]],
    parallel: int,
    describe: Callable[[_Answer], str],
) -> Iterator[tuple[int, _Answer | KernelJudgeError]]:
    """Makes the calls, `parallel` at a time, and yields index and answer as each one ends.

    An exception of the client is an answer too; any other is raised. Meanwhile a progress bar
    tells the phases of the jobs on the server; where standard error is no terminal, a line a call
    does, with what `describe` says of its answer.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, _Answer | BaseException]] = queue.SimpleQueue()
    for index in range(len(calls)):
        waiting.put(index)

    def work() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, calls[index][1]()))
            except BaseException as error:  # raised in the main thread, whatever it is
                done.put((index, error))

    with _progress() as progress:
        bar = progress.add_task("", total=len(calls), phases="sending")
        # Daemons, since they may wait for a far server when Ctrl-C ends the command.
        for _ in range(min(parallel, len(calls))):
            threading.Thread(target=work, daemon=True).start()
        ended = 0
        while ended < len(calls):
            try:
                index, answer = done.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                progress.update(bar, phases=_phases(client))
                continue
            if isinstance(answer, BaseException) and not isinstance(answer, KernelJudgeError):
                raise answer
            ended += 1
            progress.update(bar, completed=ended)
            if not ERR.is_terminal and len(calls) > 1:
                text = "failed" if isinstance(answer, KernelJudgeError) else describe(answer)
                ERR.print(f"[{ended}/{len(calls)}] {plain(calls[index][0])}: {text}", markup=False)
            yield index, answer


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phases]}", markup=False),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )


def _phases(client: KernelJudgeClient) -> str:
    """How many jobs of the server are in each phase, such as `compiling 1, profiling 2`."""
    try:
        states = client.health_check().job_stats.by_status
    except KernelJudgeError:
        return "the server does not answer"
    return ", ".join(f"{state} {states[state]}" for state in _RUNNING if states.get(state))
