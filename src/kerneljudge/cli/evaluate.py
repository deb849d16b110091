"""`kerneljudge evaluate`: one kernel, or every kernel in a folder."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kerneljudge.api import EvaluateResponse
from kerneljudge.cli import options
from kerneljudge.cli.console import ERR, OUT, Usage, exit_on_error, plain, print_json, verdict_text
from kerneljudge.cli.display import milliseconds, one_line, summary_table
from kerneljudge.cli.kernels import KernelOptions, read_kernel, read_metadata
from kerneljudge.cli.private import client_of
from kerneljudge.cli.results import (
    check_writable,
    exit_code,
    judge_one,
    report,
    response_json,
)
from kerneljudge.cli.runs import devices_ready, run_all
from kerneljudge.client import KernelJudgeClient, KernelJudgeError
from kerneljudge.schema import KernelCode

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
    server: options.Server = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
    parallel: options.Parallel = None,
) -> None:
    """Build, run and time one kernel, or every kernel in a folder.

    With a folder, --json prints a list, and --output writes a line of JSON a file as it is judged.

    Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command or the request,
    3 a failure of the server.
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
        kernels = [read_kernel(file, chosen) for file in files]
        check_writable(output)
        with client_of(server, timeout) as client:
            call = functools.partial(
                client.evaluate,
                num_trials=trials,
                num_warmup=warmup,
                num_checks=checks,
                seed=seed,
            )
            if source.is_dir():
                _evaluate_all(client, call, files, kernels, as_json, output, parallel)
            else:
                result = judge_one(client, (source.name, functools.partial(call, kernels[0])))
                report(result, as_json, output)
                raise typer.Exit(exit_code([result.verdict]))


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


def _evaluate_all(
    client: KernelJudgeClient,
    call: Callable[[KernelCode], EvaluateResponse],
    files: list[Path],
    kernels: list[KernelCode],
    as_json: bool,
    output: Path | None,
    parallel: int | None,
) -> None:
    answers: dict[int, EvaluateResponse | KernelJudgeError] = {}
    calls = [
        (file.name, functools.partial(call, kernel))
        for file, kernel in zip(files, kernels, strict=True)
    ]
    running = run_all(client, calls, parallel or devices_ready(client), _describe)
    if output is not None:
        output.write_text("", encoding="utf-8")
    for index, answer in running:
        answers[index] = answer
        if output is not None:
            # At once, so that nothing is lost when a long run is cut off.
            with output.open("a", encoding="utf-8") as stream:
                line = json.dumps(_record(files[index], answer), ensure_ascii=False)
                stream.write(line + "\n")
    in_order = [answers[index] for index in range(len(files))]
    if as_json:
        print_json([_record(file, answer) for file, answer in zip(files, in_order, strict=True)])
    else:
        OUT.print(_table(files, in_order))
        OUT.print()
    verdicts = [
        None if isinstance(answer, KernelJudgeError) else answer.verdict for answer in in_order
    ]
    (ERR if as_json else OUT).print(summary_table(verdicts))
    raise typer.Exit(exit_code(verdicts))


def _describe(result: EvaluateResponse) -> str:
    runtime = result.candidate.runtime
    return result.verdict.value + ("" if runtime is None else f" {milliseconds(runtime)} ms")


def _record(file: Path, answer: EvaluateResponse | KernelJudgeError) -> dict[str, Any]:
    """What is written of one file: its response, or the error that came instead."""
    if isinstance(answer, KernelJudgeError):
        body = answer.body if isinstance(answer.body, dict) else {"status": "error"}
        return {"file": str(file), **body, "error": str(answer)}
    return {"file": str(file), **response_json(answer)}


def _table(files: list[Path], answers: list[EvaluateResponse | KernelJudgeError]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("file", no_wrap=True, overflow="ellipsis", max_width=48)
    for heading in ("verdict", "phase"):
        table.add_column(heading, no_wrap=True)
    table.add_column("mean ms", no_wrap=True, justify="right")
    table.add_column("what", no_wrap=True, overflow="ellipsis", ratio=1)
    for file, answer in zip(files, answers, strict=True):
        if isinstance(answer, KernelJudgeError):
            what = Text(plain(str(answer).partition("\n")[0]))
            table.add_row(file.name, Text("no verdict", style="bold white on red"), "", "–", what)
        else:
            table.add_row(
                file.name,
                verdict_text(answer.verdict),
                answer.phase.value,
                milliseconds(answer.candidate.runtime),
                Text(one_line(answer)),
            )
    return table
