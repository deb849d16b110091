"""What people read: numbers with units, times, and verdicts as sentences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from kerneljudge.schema import FaultKind, Phase, Verdict
from kerneljudge.service.records import Job, JobState

__all__ = [
    "PHASES",
    "Outcome",
    "age",
    "clock_time",
    "count",
    "duration",
    "outcome_of",
    "size",
    "times",
    "word",
]

Tone = Literal["good", "bad", "warn", "busy", "idle"]

PHASES: Final = {
    Phase.READ: "Read",
    Phase.BUILD: "Build",
    Phase.LOAD: "Load",
    Phase.CHECK: "Check",
    Phase.PROFILE: "Profile",
}
"""The phases that take time, in order."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job stands, in words."""

    word: str
    """The verdict, or the state."""
    title: str
    """The headline."""
    text: str
    """What it means."""
    tone: Tone
    """The colour that goes with it, never alone."""


_ACCEPTED: Final = {
    "compare": (
        "Accepted",
        "In every trial the candidate gave what the reference gave, within tolerance.",
    ),
    "evaluate": ("Accepted", "The kernel was built, ran in every trial, and was timed."),
}
_VERDICTS: Final[dict[Verdict, tuple[str, str, Tone]]] = {
    Verdict.WRONG_ANSWER: (
        "Wrong answer",
        "The candidate ran, and its outputs differ from the reference’s beyond tolerance.",
        "bad",
    ),
    Verdict.COMPILE_ERROR: (
        "Compile error",
        "The candidate does not compile, import or construct.",
        "bad",
    ),
    Verdict.RUNTIME_ERROR: (
        "Runtime error",
        "The candidate raised an exception, or the device reported an error.",
        "bad",
    ),
    Verdict.OUT_OF_MEMORY: (
        "Out of memory",
        "The candidate asked for more memory than there is for it.",
        "bad",
    ),
    Verdict.TIMEOUT: ("Timeout", "The candidate did not end in time.", "bad"),
    Verdict.OUTPUT_LIMIT: ("Output limit", "The candidate printed more than it may.", "bad"),
    Verdict.CRASHED: ("Crashed", "The candidate’s process died.", "bad"),
    Verdict.PROTOCOL_ERROR: (
        "Protocol error",
        "The candidate’s process sent something that is no answer to what it was asked.",
        "bad",
    ),
    Verdict.REFUSED: (
        "Refused",
        "The source breaks a rule of its kernel type; nothing was run.",
        "bad",
    ),
    Verdict.UNSUPPORTED: (
        "Unsupported here",
        "The kernel may be right, and this device cannot run it.",
        "warn",
    ),
    Verdict.REFERENCE_FAILED: (
        "Reference failed",
        "The reference failed, so nothing is said of the candidate.",
        "warn",
    ),
    Verdict.INTERNAL_ERROR: (
        "Judge failed",
        "The judge itself failed; nothing is said of any kernel.",
        "warn",
    ),
}
_STATES: Final[dict[JobState, tuple[str, str, Tone]]] = {
    JobState.QUEUED: ("Waiting", "Stored, and waiting for its turn.", "idle"),
    JobState.SUBMITTED: ("Starting", "Handed to a judge, which is about to begin.", "busy"),
    JobState.COMPILING: ("Compiling", "Its kernels are read, built and loaded.", "busy"),
    JobState.VALIDATING: ("Checking", "Its correctness trials run.", "busy"),
    JobState.PROFILING: ("Timing", "Its kernels are timed.", "busy"),
    JobState.COMPLETED: ("Completed", "It has ended.", "idle"),
    JobState.FAILED: ("Failed", "The service could not judge it.", "warn"),
    JobState.CANCELLED: ("Cancelled", "It was cancelled before it had a verdict.", "idle"),
}


def outcome_of(job: Job) -> Outcome:
    """How a job stands: its verdict if it has one, else its state."""
    if job.verdict is None or not job.state.finished or job.state is JobState.CANCELLED:
        return Outcome(job.state.value, *_STATES[job.state])
    if job.verdict is Verdict.ACCEPTED:
        return Outcome(job.verdict.value, *_ACCEPTED[job.kind], "good")
    title, text, tone = _VERDICTS[job.verdict]
    if job.kind == "evaluate":
        text = text.replace("The candidate", "The kernel")
    return Outcome(job.verdict.value, title, text, tone)


def word(value: Verdict | JobState | FaultKind | Phase | str) -> str:
    """A word of the interface as people write it: `wrong_answer` is “wrong answer”."""
    return str(value).replace("_", " ")


def duration(seconds: float) -> str:
    """`12.7 µs`, `3.2 ms`, `1.24 s`, `2 min 5 s`, `3 h 4 min`."""
    if seconds < 60:
        for unit, length in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
            if seconds >= length:
                return f"{_digits(seconds / length)} {unit}"
        return f"{_digits(seconds * 1e6)} µs" if seconds > 0 else "0 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def age(seconds: float) -> str:
    """`just now`, `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    if seconds < 1:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds / length)} {unit} ago"
    return "just now"


def clock_time(at: float) -> str:
    """A time in UTC, to the second: `2026-03-01 12:34:56 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: float) -> str:
    """A number with its thousands apart."""
    return f"{number:,.0f}".replace(",", " ")


def size(bytes_: float) -> str:
    """`512 B`, `1.5 MiB`, `141 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if bytes_ < 1024:
            return f"{_digits(bytes_)} {unit}"
        bytes_ /= 1024
    return f"{_digits(bytes_)} GiB"


def times(factor: float) -> str:
    """`1.52×`."""
    return f"{_digits(factor)}×"


def _digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}"
