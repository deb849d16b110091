"""`kerneljudge evaluate`: one kernel, or every kernel in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kerneljudge.cli import options
from kerneljudge.cli.connections import connect
from kerneljudge.cli.console import ERR, OUT, Usage, exit_on_error, plain, print_json, verdict_text
from kerneljudge.cli.display import milliseconds, one_line, summary_table
from kerneljudge.cli.kernels import KernelOptions, read_kernel, read_metadata, run_options
from kerneljudge.cli.results import check_writable, exit_code, report, response_json
from kerneljudge.cli.runs import judge_all, judge_one
from kerneljudge.client import Judged, KernelJudgeError, Outcome, RequestError
from kerneljudge.schema import Verdict

__all__ = ["evaluate"]


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A source, or a folder: every *.py in it."),
    ],
    kernel_type: options.Type = None,
    contract: options.Contract = None,
    metadata: options.Metadata = None,
    kernel_name: options.KernelName = None,
    entry_point: options.EntryPoint = None,
    function_name: options.FunctionName = None,
    class_name: options.ClassName = None,
    method_name: options.MethodName = None,
    compiler_options: options.CompilerOption = None,
    trials: options.Trials = 100,
    warmup: options.Warmup = 10,
    checks: options.Checks = 2,
    timeout: options.Timeout = 120,
    seed: options.Seed = None,
    priority: options.Priority = None,
    deadline: options.Deadline = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
    parallel: options.Parallel = None,
) -> None:
    """Build, run and time one kernel, or every kernel in a folder.

    With a folder, --json prints a list, and --output writes a line of JSON a file as it is judged.

    Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command or the request,
    3 no verdict.
    """
    with exit_on_error(as_json):
        shortcuts = {
            "kernel_name": kernel_name,
            "entry_point": entry_point,
            "function_name": function_name,
            "class_name": class_name,
            "method_name": method_name,
            "compiler_options": compiler_options,
        }
        chosen = KernelOptions(kernel_type, contract, read_metadata(metadata, shortcuts))
        files = _sources(source)
        runs = run_options(trials, warmup, checks, timeout, seed)
        requests = [{"kernel": read_kernel(file, chosen), **runs} for file in files]
        check_writable(output)
        with connect(url, api_key) as client:
            if not source.is_dir():
                result = judge_one(client, requests[0], priority, deadline)
                report(result, as_json, output)
                raise typer.Exit(exit_code([result]))
            outcomes = judge_all(
                client,
                requests,
                [file.name for file in files],
                _describe,
                parallel=parallel,
                priority=priority,
                deadline=deadline,
                ended=_recorder(files, output),
            )
        _report_all(files, outcomes, as_json)
        raise typer.Exit(exit_code(outcomes))


def _sources(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(source.glob("*.py"), key=lambda path: _natural(path.name))
    if not files:
        raise Usage(f"there is no *.py in {source}")
    return files


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2_x before 10_x."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _recorder(files: Sequence[Path], output: Path | None) -> Callable[[int, Outcome], None]:
    """What writes each outcome as it comes, so that nothing is lost when a long run is cut off."""
    if output is not None:
        output.write_text("", encoding="utf-8")

    def record(index: int, outcome: Outcome) -> None:
        if output is not None:
            with output.open("a", encoding="utf-8") as stream:
                line = json.dumps(_record(files[index], outcome), ensure_ascii=False)
                stream.write(line + "\n")

    return record


def _report_all(files: Sequence[Path], outcomes: Sequence[Outcome], as_json: bool) -> None:
    if as_json:
        print_json([_record(file, one) for file, one in zip(files, outcomes, strict=True)])
    else:
        OUT.print(_table(files, outcomes))
        OUT.print()
    (ERR if as_json else OUT).print(summary_table(map(_word, outcomes)))


def _word(outcome: Outcome) -> Verdict | str:
    """What came of one file, in a word."""
    if isinstance(outcome, RequestError):
        return "not taken"
    return "no verdict" if isinstance(outcome, KernelJudgeError) else outcome.verdict


def _describe(result: Judged) -> str:
    runtime = result.candidate.runtime
    return result.verdict.value + ("" if runtime is None else f" {milliseconds(runtime)} ms")


def _record(file: Path, outcome: Outcome) -> dict[str, Any]:
    """What is written of one file: its response, or the error that came instead."""
    if isinstance(outcome, KernelJudgeError):
        body = outcome.body if isinstance(outcome.body, dict) else {"status": "error"}
        return {"file": str(file), **body, "error": str(outcome)}
    return {"file": str(file), **response_json(outcome)}


def _table(files: Sequence[Path], outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("file", no_wrap=True, overflow="ellipsis", max_width=48)
    for heading in ("verdict", "phase"):
        table.add_column(heading, no_wrap=True)
    table.add_column("mean ms", no_wrap=True, justify="right")
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    for file, outcome in zip(files, outcomes, strict=True):
        word = verdict_text(_word(outcome))
        if isinstance(outcome, KernelJudgeError):
            table.add_row(file.name, word, "", "–", Text(_first_line(outcome)))
        else:
            table.add_row(
                file.name,
                word,
                outcome.phase.value,
                milliseconds(outcome.candidate.runtime),
                Text(one_line(outcome)),
            )
    return table


def _first_line(error: KernelJudgeError) -> str:
    return plain(str(error).partition("\n")[0])
