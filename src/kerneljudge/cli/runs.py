"""Jobs of one's own, with a display of how far they are; Ctrl-C cancels them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kerneljudge.api import JobEventResponse, JobResponse
from kerneljudge.cli.console import ERR, plain
from kerneljudge.cli.exits import Exit
from kerneljudge.client import (
    BatchProgress,
    ConflictError,
    Judged,
    KernelJudgeClient,
    KernelJudgeError,
    Outcome,
    Submittable,
)

__all__ = ["describe_event", "judge_all", "judge_one"]


def judge_one(
    client: KernelJudgeClient,
    request: Submittable,
    priority: int | None = None,
    deadline: float | None = None,
) -> Judged:
    """Submits a job and waits for its result, showing its phases. Raises what the client raises."""
    job_id = client.submit(request, priority=priority, deadline=deadline).job_id
    with _cancelled_on_interrupt(client, lambda: [job_id]), _progress() as progress:
        task = progress.add_task("", total=None)
        for event in client.stream(job_id):
            if isinstance(event, JobEventResponse):
                progress.update(task, description=describe_event(event))
        return client.wait(job_id)


def judge_all(
    client: KernelJudgeClient,
    requests: Sequence[Submittable],
    names: Sequence[str],
    describe: Callable[[Judged], str],
    *,
    parallel: int | None = None,
    priority: int | None = None,
    deadline: float | None = None,
    ended: Callable[[int, Outcome], object] | None = None,
) -> list[Outcome]:
    """Submits many jobs, `parallel` at a time, and waits for all of them: their outcomes.

    `ended` is called with the index and the outcome of each as it comes. Where standard error is
    no terminal, each has a line there, with what `describe` says of its result.
    """
    running: Mapping[int, str] = {}
    bar = _progress(BarColumn(), MofNCompleteColumn())
    with _cancelled_on_interrupt(client, lambda: running.values()), bar as progress:
        task = progress.add_task("", total=len(requests))

        def report(told: BatchProgress) -> None:
            nonlocal running
            running = told.running
            description = f"{len(running)} on the server"
            progress.update(task, completed=told.ended, description=description)
            if told.index is None or told.outcome is None:
                return
            if ended is not None:
                ended(told.index, told.outcome)
            if not ERR.is_terminal:
                if isinstance(told.outcome, KernelJudgeError):
                    text = "failed"
                else:
                    text = describe(told.outcome)
                line = f"[{told.ended}/{told.total}] {names[told.index]}: {text}"
                ERR.print(plain(line), markup=False)

        return client.batch(
            requests, progress=report, parallel=parallel, priority=priority, deadline=deadline
        )


def describe_event(event: JobEventResponse | JobResponse) -> str:
    """What an event says, in a line."""
    message = event.message if isinstance(event, JobEventResponse) else event.error
    parts = [event.status, event.phase.value if event.phase is not None else None, message]
    return plain(" · ".join(part for part in parts if part))


@contextlib.contextmanager
def _cancelled_on_interrupt(
    client: KernelJudgeClient, jobs: Callable[[], Iterable[str]]
) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        for job_id in jobs():
            try:
                client.cancel(job_id)
            except ConflictError:
                continue  # it has ended
            except KernelJudgeError as error:
                ERR.print(plain(f"The job {job_id} is not cancelled: {error}"), markup=False)
                break
            ERR.print(f"Cancelled the job {job_id}.", markup=False)
        raise typer.Exit(Exit.INTERRUPTED) from None


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        *columns,
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )
