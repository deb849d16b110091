"""What a peer's program says: one line of JSON on standard output, whatever the peer prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.task import Task

__all__ = ["Outcome", "PeerError", "add_task_arguments", "report", "task_of"]


class PeerError(Exception):
    """The peer gave no numbers, for the reason in the message."""


@dataclass
class Outcome:
    """The repetitions of one case by one peer."""

    system: str
    """Name, version and way of running."""
    case: str
    """The candidate."""
    isolated: bool
    """Whether each evaluation has a process of its own."""
    seconds: list[float] = field(default_factory=list)
    """Wall time of each evaluation."""
    kernel_ms: list[float] = field(default_factory=list)
    """The time that it reports for the candidate, in each evaluation, in milliseconds."""
    reference_ms: list[float] = field(default_factory=list)
    """The same of the reference."""
    verdict: str = ""
    """Its own word for the last evaluation."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know to compare."""
    error: str | None = None
    """Why there are no numbers."""


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `Task` is made of."""
    defaults = Task()
    parser.add_argument("--rows", type=int, default=defaults.rows)
    parser.add_argument("--columns", type=int, default=defaults.columns)
    parser.add_argument("--checks", type=int, default=defaults.checks)
    parser.add_argument("--trials", type=int, default=defaults.trials)


def task_of(arguments: argparse.Namespace) -> Task:
    """The task that the arguments name."""
    return Task(arguments.rows, arguments.columns, arguments.checks, arguments.trials)


def report(outcome: Outcome, measure: Callable[[Outcome], None]) -> int:
    """Has `measure` fill the outcome in, and prints it. Returns the exit code.

    What the peer itself prints goes to standard error. Any failure of the peer is the outcome's
    error: what a peer does is not ours to foresee.
    """
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        measure(outcome)
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, PeerError)
        outcome.error = str(error) if known else f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump(dataclasses.asdict(outcome), stream)
        stream.write("\n")
    return 0 if outcome.error is None else 1
