"""A progress bar for a batch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from kerneljudge.client.batches import BatchProgress, Report
from kerneljudge.client.errors import KernelJudgeError

__all__ = ["reporting"]


@contextlib.contextmanager
def reporting(progress: bool | Report) -> Iterator[Report | None]:
    """What a batch reports to: nothing, the given function, or a bar on standard error."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with _bar() as report:
            yield report


@contextlib.contextmanager
def _bar() -> Iterator[Report]:
    # What draws is loaded where something is drawn.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    outcomes: Counter[str] = Counter()
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=None)

        def report(progress: BatchProgress) -> None:
            outcome = progress.outcome
            if isinstance(outcome, KernelJudgeError):
                outcomes["no verdict"] += 1
            elif outcome is not None:
                outcomes[outcome.verdict.value] += 1
            counts = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
            bar.update(task, total=progress.total, completed=progress.ended, description=counts)

        yield report
