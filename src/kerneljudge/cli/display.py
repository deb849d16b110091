"""Results as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kerneljudge.api import (
    CompareResponse,
    HealthResponse,
    JobResponse,
    JobSummary,
    JudgedResponse,
)
from kerneljudge.cli.console import plain, verdict_text
from kerneljudge.schema import (
    BuildReport,
    ClockReport,
    Fault,
    OutputReport,
    Phase,
    RuntimeStats,
    SideReport,
    Verdict,
)

__all__ = [
    "groups",
    "health_table",
    "job_table",
    "jobs_table",
    "milliseconds",
    "one_line",
    "show_result",
    "summary_table",
]

_LAST_LINES = 12
# From this width on a list of jobs has all its columns.
_WIDE_JOBS = 110


def show_result(console: Console, result: JudgedResponse) -> None:
    """The verdict, both sides, and what there is to say of them."""
    console.print(_headline(result))
    console.print(_sides(result))
    for part in _remarks(result):
        console.print(part, soft_wrap=True)


def summary_table(words: Iterable[Verdict | str]) -> Table:
    """How many have each verdict, in the verdicts' order, and then what stands in place of one."""
    counts = Counter(words)
    table = Table("verdict", "count", box=None)
    table.columns[1].justify = "right"
    for word in [*Verdict, *sorted(counts.keys() - set(Verdict))]:
        if counts[word]:
            table.add_row(verdict_text(word), str(counts[word]))
    return table


def jobs_table(jobs: Iterable[JobSummary], now: float, width: int) -> Table:
    """A line a job; `now` is in seconds since the epoch. Of the facts, as many as `width` has room
    for: the id is whole, since other commands take it."""
    table = Table(box=None, pad_edge=False)
    wide = width >= _WIDE_JOBS
    table.add_column("job", no_wrap=True, min_width=36)
    for heading in ("kind", "status", "verdict", "device", "client"):
        if wide or heading not in ("kind", "client"):
            table.add_column(heading, no_wrap=True)
    for heading in ("age", "took") if wide else ("age",):
        table.add_column(heading, justify="right", no_wrap=True)
    for job in jobs:
        verdict = verdict_text(job.verdict) if job.verdict is not None else "–"
        device = Text(plain(job.device or "–"))
        age = _span(now - job.created_at)
        if not wide:
            table.add_row(job.job_id, job.status, verdict, device, age)
            continue
        client = Text(plain(job.client))
        took = _span(job.finished_at - job.created_at) if job.finished_at is not None else "–"
        table.add_row(job.job_id, job.kind, job.status, verdict, device, client, age, took)
    return table


def job_table(job: JobResponse) -> Table:
    """What there is to say of one job, beside its result."""
    table = _pairs()
    for name in ("job_id", "kind", "status", "client", "priority", "attempts"):
        table.add_row(name, Text(plain(str(job[name]))))
    if job.phase is not None:
        table.add_row("phase", job.phase.value)
    if job.error is not None:
        table.add_row("error", Text(plain(job.error)))
    if job.device is not None:
        table.add_row("device", Text(plain(job.device)))
    for name in ("created_at", "started_at", "finished_at", "deadline_at"):
        if job[name] is not None:
            table.add_row(name, f"{datetime.fromtimestamp(job[name]):%Y-%m-%d %H:%M:%S}")
    return table


def health_table(health: HealthResponse) -> Group:
    """Whether a server takes jobs, and its devices."""
    well = health.status == "healthy"
    headline = Text(health.status, style="bold green" if well else "bold red")
    if health.error is not None:
        headline.append(f": {plain(health.error)}", style="")
    table = Table(box=None, pad_edge=False)
    for heading in ("device", "health", "jobs", "what"):
        table.add_column(heading, justify="right" if heading == "jobs" else "left")
    for device in health.devices:
        name = device.environment.device_name if device.environment is not None else ""
        what = Text(plain(device.reason or name))
        table.add_row(Text(plain(device.name)), device.health, str(device.jobs), what)
    return Group(headline, table)


def groups(content: Mapping[str, Any]) -> Table:
    """Nested facts, a line each, under the names of their groups."""
    table = _pairs()
    for name, value in content.items():
        if isinstance(value, Mapping):
            table.add_row(Text(plain(name), style="bold"), "")
            for key, inner in value.items():
                table.add_row(f"  {plain(key)}", _fact(inner))
        else:
            table.add_row(plain(name), _fact(value))
    return table


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _fact(value: Any) -> Text:
    if isinstance(value, Mapping):
        return Text(", ".join(f"{plain(key)} {_fact(one)}" for key, one in value.items()) or "–")
    return Text(f"{value:.3f}" if isinstance(value, float) else plain(str(value)))


def _span(seconds: float) -> str:
    """A time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"


def milliseconds(stats: RuntimeStats | None) -> str:
    """The mean time in milliseconds with four significant digits, or a dash."""
    return "–" if stats is None else f"{stats.mean:.4g}"


def one_line(result: JudgedResponse) -> str:
    """The first line of what is to say of a result; empty for an accepted one."""
    if result.fault is not None:
        return _first_line(result.fault.message)
    text = result.kernel_exec_result.validation_error or result.error or ""
    return _first_line(text)


def _first_line(text: str) -> str:
    return plain(text.strip().partition("\n")[0])


def _headline(result: JudgedResponse) -> Text:
    text = verdict_text(result.verdict)
    if isinstance(result, CompareResponse) and result.speedup is not None:
        text.append(f"  {result.speedup:.3g}× the reference's speed", style="bold")
    if result.phase is not Phase.DONE:
        text.append(f"  in phase {result.phase.value}")
    if result.environment is not None:
        text.append(f"  on {plain(result.environment.device_name)}", style="dim")
    return text


def _sides(result: JudgedResponse) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("side", "kernel", "build"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean ms", "median", "min", "std"):
        table.add_column(heading, justify="right", no_wrap=True)
    if isinstance(result, CompareResponse) and result.reference is not None:
        _add_side(table, "reference", result.reference)
    _add_side(table, "candidate", result.candidate)
    return table


def _add_side(table: Table, name: str, side: SideReport) -> None:
    times = side.runtime
    table.add_row(
        name,
        Text(plain(side.kernel_name or "–")),
        _build(side.build),
        Text(milliseconds(times), style="bold"),
        *(("–",) * 3 if times is None else _digits(times.median, times.min, times.std)),
    )


def _digits(*values: float) -> list[str]:
    return [f"{value:.4g}" for value in values]


def _build(build: BuildReport | None) -> str:
    if build is None:
        return "–"
    if build.way == "none":
        return "none"
    return f"{build.way}, cached" if build.cached else f"{build.way}, {build.seconds:.2f} s"


def _clock(clock: ClockReport) -> str:
    text = f"{clock.name}, {clock.samples} timed runs after {clock.warmup}"
    return f"{text}; {clock.fallback_reason}" if clock.fallback_reason else text


def _remarks(result: JudgedResponse) -> Iterable[RenderableType]:
    checks = result.checks
    if checks:
        passed = sum(check.passed for check in checks)
        tolerance = ""
        if isinstance(result, CompareResponse) and result.tolerances is not None:
            tolerances = result.tolerances
            tolerance = f", atol={tolerances.atol:g}, rtol={tolerances.rtol:g}"
        yield Text(f"checks: {passed} of {len(checks)} passed, seed={result.seed}{tolerance}")
    wrong = [output for check in checks for output in check.outputs if not output.matches]
    if wrong:
        yield _mismatch(wrong[0])
    if result.fault is not None:
        yield _fault(result.fault)
    elif result.error is not None:
        yield Text.assemble(("error: ", "bold red"), plain(result.error))
    for warning in result.task_warnings:
        yield Text.assemble(("task: ", "bold yellow"), plain(warning))
    for name, side in _named_sides(result):
        if side.clock is not None:
            yield Text(f"{name}'s clock: {plain(_clock(side.clock))}")
        if side.build is not None and side.build.reason:
            yield Text(f"{name}'s build: {plain(side.build.reason)}")
        for note in side.notes:
            yield Text(f"{name}: {plain(note)}")
        if side.stdout.strip():
            yield Text.assemble((f"{name} printed: ", "bold"), plain(_last_lines(side.stdout)))
    if result.phase_seconds:
        phases = ", ".join(f"{name} {spent:.2f} s" for name, spent in result.phase_seconds.items())
        yield Text(f"phases: {phases}", style="dim")


def _named_sides(result: JudgedResponse) -> list[tuple[str, SideReport]]:
    sides = [("candidate", result.candidate)]
    if isinstance(result, CompareResponse) and result.reference is not None:
        sides.insert(0, ("reference", result.reference))
    return sides


def _mismatch(output: OutputReport) -> Text:
    text = Text.assemble(("first mismatch: ", "bold red"), plain(output.name), ": ")
    if output.reason:
        return text.append(plain(output.reason))
    first = output.first_mismatch
    if first is not None:
        values = f"expected {first.expected}, got {first.actual}"
        text.append(plain(f"at {first.index} {values}; "))
    return text.append(f"max difference {output.max_abs_error}")


def _fault(fault: Fault) -> RenderableType:
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{fault.side}, {fault.phase.value}, {fault.kind.value}: ", "bold red"),
            plain(fault.message),
        )
    ]
    if fault.traceback and fault.traceback.strip() not in fault.message:
        parts.append(Text(plain(_last_lines(fault.traceback)), style="dim"))
    if fault.exit_code is not None:
        parts.append(Text(f"exit code {fault.exit_code}", style="dim"))
    if fault.hint:
        parts.append(Text.assemble(("hint: ", "bold green"), plain(fault.hint)))
    return Group(*parts)


def _last_lines(text: str) -> str:
    lines = text.strip("\n").split("\n")
    left_out = len(lines) - _LAST_LINES
    head = [f"… {left_out} lines before"] if left_out > 0 else []
    return "\n".join([*head, *lines[-_LAST_LINES:]])
