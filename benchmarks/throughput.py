"""Comparisons a second over HTTP, each in runners of its own, and what more devices add.

The task and the candidates are those of `evaluate_cost`. So many clients as are asked for send one
comparison after the other for a while; what counts is how many ended, over the time until the last.
A candidate always has a process of its own. Whether the reference has one too, or one that ran the
same reference before, is what `--references` chooses: as where many candidates are compared with
one problem's reference, or as where no two comparisons have one in common.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, request
from benchmarks.machine import describe
from benchmarks.peers.outcome import add_task_arguments, task_of
from kerneljudge.cli.private import private_server

_SETTLING_SECONDS = 3.0


@dataclass
class Measured:
    """What one server did."""

    devices: list[str]
    """Its devices."""
    clients: int
    """Clients that sent at once."""
    seconds: float = 0.0
    """Until the last comparison ended."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each comparison, as its client saw it."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """How they ended."""
    by_device: Counter[str] = field(default_factory=Counter)
    """Where they ran."""
    reused: int = 0
    """Comparisons whose reference had a process that ran it before."""
    phases: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that each took in every phase."""
    kernel_us: list[float] = field(default_factory=list)
    """The candidate's median time in each."""

    @property
    def rate(self) -> float:
        """Comparisons a second."""
        return len(self.latencies) / self.seconds


def measure(
    url: str, bodies: Iterator[str], devices: list[str], clients: int, seconds: float
) -> Measured:
    """Keeps the server busy for some seconds."""
    result = Measured(devices, clients)
    lock = threading.Lock()
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as warming:
        for _ in range(2 * len(devices)):  # fills the caches
            warming.post("/compare", content=next(bodies), headers=headers).raise_for_status()
    time.sleep(_SETTLING_SECONDS)
    begun = time.perf_counter()

    def send() -> None:
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
            while (sent := time.perf_counter()) < begun + seconds:
                with lock:
                    body = next(bodies)
                response = client.post("/compare", content=body, headers=headers)
                elapsed = time.perf_counter() - sent
                answer: dict[str, Any] = response.json()
                with lock:
                    result.latencies.append(elapsed)
                    result.verdicts[answer.get("verdict") or f"HTTP {response.status_code}"] += 1
                    result.by_device[(answer.get("environment") or {}).get("device", "?")] += 1
                    result.reused += bool((answer.get("reference") or {}).get("reused"))
                    for phase, took in (answer.get("phase_seconds") or {}).items():
                        result.phases.setdefault(phase, []).append(took)
                    runtime = (answer.get("candidate") or {}).get("runtime")
                    if runtime is not None:
                        result.kernel_us.append(runtime["median"] * 1000)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds = time.perf_counter() - begun
    return result


@contextlib.contextmanager
def _devices(names: str) -> Any:
    before = os.environ.get("KERNELJUDGE_DEVICES")
    os.environ["KERNELJUDGE_DEVICES"] = names
    try:
        yield
    finally:
        if before is None:
            del os.environ["KERNELJUDGE_DEVICES"]
        else:
            os.environ["KERNELJUDGE_DEVICES"] = before


def _table(results: list[Measured]) -> Table:
    table = Table(title="Isolated comparisons over HTTP")
    table.add_column("devices", no_wrap=True)
    for column in (
        "clients",
        "ended",
        "seconds",
        "a second",
        "×",
        "median s",
        "p95 s",
        "kernel µs",
        "reused",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("median ms a phase")
    table.add_column("verdicts")
    table.add_column("by device")
    for row in results:
        ordered = sorted(row.latencies)
        table.add_row(
            ",".join(row.devices),
            str(row.clients),
            str(len(ordered)),
            f"{row.seconds:.1f}",
            f"{row.rate:.2f}",
            f"{row.rate / results[0].rate:.2f}",
            f"{statistics.median(ordered):.3f}",
            f"{ordered[int(len(ordered) * 0.95)]:.3f}",
            f"{statistics.median(row.kernel_us):.2f}" if row.kernel_us else "–",
            str(row.reused),
            ", ".join(
                f"{phase} {statistics.median(took) * 1000:.0f}"
                for phase, took in row.phases.items()
            ),
            ", ".join(f"{count} {name}" for name, count in row.verdicts.items()),
            ", ".join(f"{name}: {count}" for name, count in sorted(row.by_device.items())),
        )
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--devices",
        action="append",
        help="as for kerneljudge serve; given again, another server is measured (auto)",
    )
    parser.add_argument("--case", default="triton, seen", choices=list(CASES))
    parser.add_argument(
        "--references",
        default="same",
        choices=["same", "new"],
        help="whether all comparisons have one reference, or each its own (same)",
    )
    parser.add_argument("--clients", type=int, default=6, help="a device (6)")
    parser.add_argument("--seconds", type=float, default=20, help="of load on each server (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    add_task_arguments(parser)
    return parser.parse_args()


def _bodies(arguments: argparse.Namespace) -> Iterator[str]:
    """Requests without end."""
    same = request(task_of(arguments), CASES[arguments.case], 0).model_dump(exclude_unset=True)
    source = same["ref_kernel"]["source_code"]
    for number in itertools.count():
        if arguments.references == "new":
            same["ref_kernel"]["source_code"] = f"{source}\n# {number}\n"
        yield json.dumps(same)


def main() -> int:
    """Runs the program. Returns 1 where a comparison was not accepted."""
    arguments = _parse()
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    results: list[Measured] = []
    environment: dict[str, Any] = {}
    bodies = _bodies(arguments)
    for names in arguments.devices or ["auto"]:
        with _devices(names), private_server() as url:
            found = httpx.get(f"{url}/health", trust_env=False).json()["devices"]
            environment = found[0]["environment"] or {}
            devices = [device["name"] for device in found]
            clients = arguments.clients * len(devices)
            results.append(measure(url, bodies, devices, clients, arguments.seconds))
    machine = describe("benchmarks.throughput", arguments.commit, environment)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**vars(row), "rate": row.rate} for row in results]
        everything = {"machine": machine, "results": rows}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    for key, value in machine.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        console.print(f"{key}: {text}", markup=False, soft_wrap=True)
    console.print(_table(results))
    return 0 if all(set(row.verdicts) == {"accepted"} for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
