"""What one evaluation costs, end to end over HTTP on a warm server, and what it costs elsewhere.

The task is `x + y` on 4096 × 1024 float32 against a torch reference, 2 correctness trials and 100
timed runs of both kernels. Each case is repeated; candidates 'never seen' have a new source every
time. Peers that are found run afterwards, on the same machine, with the server stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.cases import CASES, Case, request
from benchmarks.machine import describe
from benchmarks.peers.outcome import Outcome, add_task_arguments, task_of
from benchmarks.task import Task
from kerneljudge.cli.private import private_server

_ROOT = Path(__file__).parents[1]
_PHASES = ["read", "build", "load", "check", "profile"]


@dataclass
class Measured(Outcome):
    """The repetitions of one case, with what KernelJudge says of each."""

    phases: list[dict[str, float]] = field(default_factory=list)
    """Seconds of each phase."""
    budget: float | None = None
    """Seconds that it may take on one H200, with the task as it is by default."""


def _compare(client: httpx.Client, task: Task, case: Case, revision: int) -> tuple[float, Any]:
    body = request(task, case, revision).model_dump_json(exclude_unset=True)
    start = time.perf_counter()
    response = client.post("/compare", content=body, headers={"Content-Type": "application/json"})
    answer = response.json()
    seconds = time.perf_counter() - start
    if response.status_code != 200:
        raise RuntimeError(f"HTTP {response.status_code}: {answer.get('error', answer)}")
    return seconds, answer


def _notes(answer: Any) -> list[str]:
    side = answer["candidate"]
    notes = []
    if side["build"] is not None:
        cached = ", from the cache" if side["build"]["cached"] else ""
        notes.append(f"build: {side['build']['way']}{cached}")
    if side["clock"] is not None:
        notes.append(f"clock: {side['clock']['name']}")
    if answer["fault"] is not None:
        notes.append(answer["fault"]["message"])
    return notes


def measure(
    client: httpx.Client, task: Task, case: Case, *, repeats: int, first: int, pause: float
) -> Measured:
    """Has one case judged, after one evaluation that is not counted, `pause` seconds apart.

    That one fills the build cache for a candidate that is to be seen, and warms whatever the
    server warms at a kernel type's first use for one that is not. Revisions count from `first`.
    """
    budget = case.budget if task == Task() else None  # it is for that task alone
    result = Measured("KernelJudge", case.name, isolated=True, budget=budget)
    _compare(client, task, case, first)
    for repetition in range(1, repeats + 1):
        revision = first + repetition if case.fresh else first
        time.sleep(pause)
        seconds, answer = _compare(client, task, case, revision)
        result.seconds.append(seconds)
        result.phases.append(answer["phase_seconds"])
        result.verdict = answer["verdict"]
        result.notes = _notes(answer)
        for side, times in (
            ("candidate", result.kernel_ms),
            ("reference", result.reference_ms),
        ):
            runtime = (answer[side] or {}).get("runtime")
            if runtime is not None:
                times.append(runtime["mean"])
    return result


def _peer(program: str, options: list[str], arguments: argparse.Namespace) -> Outcome:
    task = task_of(arguments)
    command = [sys.executable, "-m", f"benchmarks.peers.{program}", *options]
    for name, value in dataclasses.asdict(task).items():
        command += [f"--{name}", str(value)]
    absent = Outcome(system=f"{program} {' '.join(options)}", case="triton, seen", isolated=False)
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=arguments.peer_timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        absent.error = f"did not end within {arguments.peer_timeout:g} s"
        return absent
    lines = done.stdout.splitlines()
    if len(lines) != 1:
        absent.error = f"ended with {done.returncode} without an answer"
        return absent
    return Outcome(**json.loads(lines[0]))


def run_peers(arguments: argparse.Namespace, console: Console) -> list[Outcome]:
    """Runs every peer that this machine has; says of the others why not."""
    repeats = ["--repeats", str(arguments.peer_repeats)]
    runs: list[tuple[str, list[str]]] = []
    outcomes = []
    if arguments.kernelbench is None:
        outcomes.append(_not_run("KernelBench", "no checkout given (--kernelbench PATH)"))
    else:
        path = ["--path", str(arguments.kernelbench.resolve())]
        cold = ["--repeats", str(arguments.cold_repeats), "--revision", str(arguments.revision)]
        runs += [
            ("kernelbench", [*path, "--mode", "process", *repeats]),
            ("kernelbench", [*path, "--mode", "shared", *repeats]),
            ("kernelbench", [*path, "--candidate", "torch_cuda", *cold]),
        ]
    if importlib.util.find_spec("flashinfer_bench") is None:
        outcomes.append(_not_run("flashinfer-bench", "not installed"))
    else:
        runs += [
            ("flashinfer_bench", ["--mode", mode, *repeats]) for mode in ("isolated", "persistent")
        ]
    for program, options in runs:
        console.print(f"{program} {' '.join(options)}", style="dim", highlight=False)
        outcomes.append(_peer(program, options, arguments))
    return outcomes


def _not_run(system: str, reason: str) -> Outcome:
    return Outcome(system=system, case="every case", isolated=False, error=reason)


def _microseconds(milliseconds: list[float]) -> str:
    return f"{statistics.median(milliseconds) * 1000:.2f}" if milliseconds else "–"


def phase_table(results: list[Measured]) -> Table:
    """Where KernelJudge's time goes: the median of each phase."""
    table = Table(title="KernelJudge: median seconds of each phase")
    table.add_column("candidate", no_wrap=True)
    for phase in [*_PHASES, "the rest"]:
        table.add_column(phase, justify="right")
    table.add_column("how")
    for result in results:
        if not result.phases:
            continue
        medians = [
            statistics.median(phases.get(phase, 0.0) for phases in result.phases)
            for phase in _PHASES
        ]
        rest = statistics.median(
            seconds - sum(phases.values())
            for seconds, phases in zip(result.seconds, result.phases, strict=True)
        )
        cells = [f"{seconds:.3f}" for seconds in [*medians, rest]]
        table.add_row(result.case, *cells, Text("; ".join(result.notes)))
    return table


def cost_table(results: list[Measured], peers: list[Outcome]) -> Table:
    """Seconds an evaluation of every system, and the ratio to KernelJudge on the same case."""
    table = Table(title="Seconds an evaluation, end to end", caption="× is the ratio of medians")
    for column in ("system", "candidate"):
        table.add_column(column, no_wrap=True)
    table.add_column("isolated")
    for column in ("runs", "median", "min", "max", "×", "H200 budget", "kernel µs", "reference µs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    ours = {result.case: statistics.median(result.seconds) for result in results if result.seconds}
    for row in [*results, *peers]:
        if not row.seconds:
            table.add_row(row.system, row.case, "", *["–"] * 8, "not run")
            continue
        median = statistics.median(row.seconds)
        budget = getattr(row, "budget", None)
        table.add_row(
            row.system,
            row.case,
            "yes" if row.isolated else "no",
            str(len(row.seconds)),
            *(f"{value:.3f}" for value in (median, min(row.seconds), max(row.seconds))),
            f"{median / ours[row.case]:.1f}" if row.case in ours else "–",
            f"{budget:g}" if budget is not None else "–",
            _microseconds(row.kernel_ms),
            _microseconds(row.reference_ms),
            row.verdict,
        )
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate_cost", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--server", help="URL of a server that runs; one is started otherwise")
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one")
    parser.add_argument("--repeats", type=int, default=5, help="of each case (5)")
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        help="seconds between evaluations, in which runners come to stand by; 0: back to back (1)",
    )
    parser.add_argument("--kernelbench", type=Path, help="a KernelBench checkout to measure too")
    parser.add_argument("--no-peers", action="store_true", help="measure KernelJudge alone")
    parser.add_argument("--peer-repeats", type=int, default=3, help="of each peer (3)")
    parser.add_argument("--cold-repeats", type=int, default=1, help="of KernelBench's builds (1)")
    parser.add_argument("--peer-timeout", type=float, default=600, help="seconds for a peer (600)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a request (300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    add_task_arguments(parser)
    arguments = parser.parse_args()
    # Sources are told apart by this number; the time makes it new to caches of earlier runs.
    arguments.revision = time.time_ns()
    return arguments


def main() -> int:
    """Runs the program. Returns 1 where KernelJudge did not accept a candidate."""
    arguments = _parse()
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)
    progress = Console(stderr=True)
    task = task_of(arguments)
    results: list[Measured] = []
    running = private_server() if arguments.server is None else nullcontext(arguments.server)
    with (
        running as url,
        httpx.Client(base_url=url, timeout=arguments.timeout, trust_env=False) as client,
    ):
        environment = client.get("/health").json()["devices"][0].get("environment") or {}
        for name in arguments.case or CASES:
            progress.print(f"KernelJudge {name} × {arguments.repeats}", style="dim")
            first = arguments.revision + 1000 * len(results)
            results.append(
                measure(
                    client,
                    task,
                    CASES[name],
                    repeats=arguments.repeats,
                    first=first,
                    pause=arguments.pause,
                )
            )
    peers = [] if arguments.no_peers else run_peers(arguments, progress)
    machine = describe("benchmarks.evaluate_cost", arguments.commit, environment)
    if arguments.json is not None:
        everything = {
            "machine": machine,
            "task": dataclasses.asdict(task),
            "results": [dataclasses.asdict(row) for row in [*results, *peers]],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    for key, value in machine.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        console.print(f"{key}: {text}", highlight=False, markup=False, soft_wrap=True)
    for peer in peers:
        remarks = peer.notes if peer.error is None else [*peer.notes, f"not run: {peer.error}"]
        for remark in remarks:
            console.print(f"{peer.system}, {peer.case}: {remark}", markup=False, soft_wrap=True)
    console.print(phase_table(results))
    console.print(cost_table(results, peers))
    return 0 if all(result.verdict == "accepted" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
