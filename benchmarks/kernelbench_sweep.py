"""Evaluates every problem file of folders as `torch`, through the command line.

The folders are given by their paths, such as KernelBench's `level1` and `level2`. Each file's
response is kept as a line of JSON as soon as it is there, so that a run that is cut off leaves
what it has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.machine import describe
from kerneljudge import Verdict
from kerneljudge.cli.private import private_server


@dataclass
class Sweep:
    """One folder's files and what became of them."""

    folder: Path
    """The folder."""
    files: int
    """The problem files in it."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The response to each, or the error that came instead, as the command line wrote them."""
    wall_seconds: float = 0.0
    """Wall time of the whole folder."""

    @property
    def judged(self) -> list[dict[str, Any]]:
        """The records with a verdict on the kernel."""
        unjudged = (None, Verdict.INTERNAL_ERROR.value)
        return [record for record in self.records if record.get("verdict") not in unjudged]

    @property
    def seconds(self) -> list[float]:
        """Seconds of the phases of each judged file."""
        return [sum(record["phase_seconds"].values()) for record in self.judged]

    @property
    def verdicts(self) -> Counter[str]:
        """How many files have each verdict."""
        return Counter(record["verdict"] for record in self.judged)


def sweep(folder: Path, url: str, output: Path, arguments: argparse.Namespace) -> Sweep:
    """Runs `kerneljudge evaluate` on a folder; its progress goes to standard error."""
    result = Sweep(folder, files=len(list(folder.glob("*.py"))))
    command = [sys.executable, "-m", "kerneljudge", "evaluate", str(folder), "--type", "torch"]
    command += ["--server", url, "--output", str(output), "--seed", str(arguments.seed)]
    command += ["--trials", str(arguments.trials), "--timeout", str(arguments.timeout)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    result.wall_seconds = time.perf_counter() - start
    if done.returncode == 2:
        raise SystemExit(2)  # it has said what is wrong with the folder or the options
    with output.open(encoding="utf-8") as lines:
        result.records = [json.loads(line) for line in lines]
    return result


def _reason(record: dict[str, Any]) -> str:
    fault = record.get("fault") or {}
    return (fault.get("message") or record.get("error") or "").partition("\n")[0]


def failure_table(sweeps: list[Sweep]) -> Table:
    """What was not accepted, where it ended and why."""
    table = Table(title="Not accepted")
    table.add_column("file", overflow="fold")
    for column in ("verdict", "phase"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold")
    for result in sweeps:
        for record in result.records:
            if record.get("verdict") == Verdict.ACCEPTED.value:
                continue
            name = f"{result.folder.name}/{Path(record['file']).name}"
            verdict, phase = record.get("verdict") or "none", record.get("phase") or ""
            table.add_row(Text(name), verdict, phase, Text(_reason(record)))
    return table


def summary_table(sweeps: list[Sweep]) -> Table:
    """One row a folder."""
    table = Table(title="Problems evaluated as torch")
    table.add_column("folder", no_wrap=True)
    for column in ("files", "got a verdict", "accepted"):
        table.add_column(column, justify="right")
    table.add_column("the others", overflow="fold")
    for column in ("median s", "max s", "all s"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in sweeps:
        verdicts = result.verdicts
        accepted = verdicts.pop(Verdict.ACCEPTED.value, 0)
        # In the order in which verdicts are shown everywhere.
        others = ", ".join(f"{word} {verdicts[word]}" for word in Verdict if word in verdicts)
        seconds = result.seconds
        table.add_row(
            result.folder.name,
            str(result.files),
            str(len(result.judged)),
            str(accepted),
            others or "–",
            f"{statistics.median(seconds):.2f}" if seconds else "–",
            f"{max(seconds):.2f}" if seconds else "–",
            f"{result.wall_seconds:.0f}",
        )
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernelbench_sweep", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of problem files")
    parser.add_argument("--server", help="URL of a server that runs; one is started otherwise")
    parser.add_argument("--trials", type=int, default=100, help="timed runs (100)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a file (120)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all values (1)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/kernelbench_sweep"),
        help="folder for FOLDER.jsonl and summary.json (out/kernelbench_sweep)",
    )
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    arguments = parser.parse_args()
    names = [folder.resolve().name for folder in arguments.folders]
    if len(set(names)) < len(names):
        parser.error(f"two folders have the same name: {', '.join(names)}")
    return arguments


def main() -> int:
    """Runs the program. Returns 1 where a file got no verdict."""
    arguments = _parse()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 140)
    running = private_server() if arguments.server is None else nullcontext(arguments.server)
    with running as url:
        sweeps = [
            sweep(folder, url, output / f"{folder.resolve().name}.jsonl", arguments)
            for folder in arguments.folders
        ]
    environments = [record["environment"] for result in sweeps for record in result.judged[:1]]
    machine = describe(
        "benchmarks.kernelbench_sweep", arguments.commit, next(iter(environments), {})
    )
    summary = {
        "machine": machine,
        "folders": {
            result.folder.name: {
                "files": result.files,
                "verdicts": dict(result.verdicts),
                "seconds": result.seconds,
                "wall_seconds": result.wall_seconds,
            }
            for result in sweeps
        },
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for key, value in machine.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        console.print(f"{key}: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(failure_table(sweeps))
    console.print(summary_table(sweeps))
    return 0 if all(len(result.judged) == result.files for result in sweeps) else 1


if __name__ == "__main__":
    sys.exit(main())
