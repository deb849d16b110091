"""What the service itself costs, and how it bears a thousand clients that wait.

Overhead: one client, one job after the other, against a server whose devices judge in no time but
report every phase; the seconds are all HTTP, store and queue. Load: many clients send one job each
at the same moment to a server with real judges, and wait for its answer, while another process asks
for `/health` and for the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from kerneljudge.cli.private import private_server

_ROOT = Path(__file__).parents[1]
_HEALTH_PAUSE = 0.1
_CLIENTS_NICE = 10

_SOURCE = """
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + y  # {tag}


def get_inputs():
    return [torch.randn(64), torch.randn(64)]
"""


def _body(tag: str) -> dict[str, Any]:
    return {
        "kernel": {
            "source_code": _SOURCE.format(tag=tag),
            "kernel_type": "torch",
            "metadata": {"tag": tag},
        },
        "num_trials": 2,
        "num_warmup": 1,
        "num_checks": 1,
    }


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def overhead(jobs: int) -> list[float]:
    """Seconds of each job, from sending the request to having read the answer."""
    with tempfile.TemporaryDirectory(prefix="kerneljudge-overhead-") as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.instant_server", folder],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            seconds = []
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                for number in range(jobs + 20):
                    body = _body(f"overhead-{number}")
                    begun = time.perf_counter()
                    answer = client.post("/evaluate", json=body)
                    took = time.perf_counter() - begun
                    answer.raise_for_status()
                    if number >= 20:  # the first ones fill caches
                        seconds.append(took)
            return seconds
        finally:
            server.stdin.close()
            server.wait(60)


def _watch(url: str, results: Connection) -> None:
    """In a process of its own: asks until it is told to stop, then says what it saw."""
    latencies: list[float] = []
    memory: list[float] = []
    failures = 0
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while not results.poll(_HEALTH_PAUSE):
            begun = time.perf_counter()
            ok = client.get("/health").status_code == 200
            latencies.append(time.perf_counter() - begun)
            failures += not ok
            if len(latencies) % 10 == 0:
                families = text_string_to_metric_families(client.get("/metrics").text)
                memory += [
                    sample.value
                    for family in families
                    for sample in family.samples
                    if sample.name == "process_resident_memory_bytes"
                ]
    results.send((latencies, memory, failures))


async def _load(url: str, clients: int) -> tuple[list[float], Counter[str]]:
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None)
    timeout = httpx.Timeout(1800, connect=120)
    async with httpx.AsyncClient(
        base_url=url, timeout=timeout, limits=limits, trust_env=False
    ) as client:

        async def one(number: int) -> None:
            tag = f"load-{number}"
            begun = time.perf_counter()
            try:
                answer = await client.post("/evaluate", json=_body(tag))
            except httpx.TransportError as error:
                outcomes[type(error).__name__] += 1
                return
            latencies.append(time.perf_counter() - begun)
            told = answer.json()
            own = told.get("kernel_metadata", {}).get("candidate", {}).get("tag") == tag
            if answer.status_code != 200:
                outcomes[f"HTTP {answer.status_code}"] += 1
            else:
                outcomes[told["verdict"] if own else "another's result"] += 1

        await asyncio.gather(*(one(number) for number in range(clients)))
    return latencies, outcomes


def load(clients: int) -> dict[str, Any]:
    """What a server with real judges did under load."""
    with private_server() as url:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            client.post("/evaluate", json=_body("warm")).raise_for_status()
            environment = client.get("/health").json()["devices"][0]["environment"]
        ours, theirs = multiprocessing.Pipe()
        watcher = multiprocessing.get_context("spawn").Process(target=_watch, args=(url, theirs))
        watcher.start()
        time.sleep(3)
        begun = time.perf_counter()
        # A thousand clients have CPUs of their own: here they share them with the server, so they
        # have what it leaves.
        os.nice(_CLIENTS_NICE)
        latencies, outcomes = asyncio.run(_load(url, clients))
        seconds = time.perf_counter() - begun
        ours.send("stop")
        health, memory, failures = ours.recv()
        watcher.join()
    return {
        "clients": clients,
        "seconds": seconds,
        "outcomes": dict(outcomes),
        "latency_median_seconds": statistics.median(latencies),
        "latency_max_seconds": max(latencies),
        "health_requests": len(health),
        "health_failures": failures,
        "health_median_seconds": statistics.median(health),
        "health_p99_seconds": _percentile(health, 0.99),
        "health_max_seconds": max(health),
        "memory_first_bytes": memory[0] if memory else None,
        "memory_max_bytes": max(memory, default=None),
        "environment": environment,
    }


def _table(results: dict[str, Any]) -> Table:
    table = Table(title="The service itself", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("measured", justify="right")
    if spent := results.get("overhead_seconds"):
        table.add_row("overhead of a job, median", f"{statistics.median(spent) * 1000:.2f} ms")
        table.add_row("overhead of a job, p95", f"{_percentile(spent, 0.95) * 1000:.2f} ms")
        table.add_row("jobs", str(len(spent)))
    if told := results.get("load"):
        table.add_row("clients that waited at once", str(told["clients"]))
        outcomes = ", ".join(f"{count} {name}" for name, count in told["outcomes"].items())
        table.add_row("their answers", outcomes)
        table.add_row("until the last", f"{told['seconds']:.1f} s")
        table.add_row("/health asked", f"{told['health_requests']} ×")
        table.add_row("/health failed", f"{told['health_failures']} ×")
        for name in ("median", "p99", "max"):
            table.add_row(f"/health, {name}", f"{told[f'health_{name}_seconds'] * 1000:.1f} ms")
        for name in ("first", "max"):
            if (size := told[f"memory_{name}_bytes"]) is not None:
                table.add_row(f"memory of the server, {name}", f"{size / 2**20:.0f} MiB")
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service_load", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=500, help="one after the other; 0: none (500)")
    parser.add_argument("--clients", type=int, default=1000, help="at once; 0: none (1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    return parser.parse_args()


def main() -> int:
    """Runs the program. Returns 1 where a client got no answer, or another's."""
    arguments = _parse()
    console = Console(highlight=False)
    results: dict[str, Any] = {}
    if arguments.jobs:
        results["overhead_seconds"] = overhead(arguments.jobs)
    if arguments.clients:
        results["load"] = load(arguments.clients)
    environment = results.get("load", {}).get("environment", {})
    machine = describe("benchmarks.service_load", arguments.commit, environment)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        everything = {"machine": machine, **results}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    for key, value in machine.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        console.print(f"{key}: {text}", markup=False, soft_wrap=True)
    console.print(_table(results))
    outcomes = results.get("load", {}).get("outcomes", {})
    return 0 if set(outcomes) <= {"accepted"} else 1


if __name__ == "__main__":
    sys.exit(main())
