"""Kills the server's processes at random while it is under load, then accounts for every job.

A supervisor, as systemd would, starts the server again whenever it ends. Clients submit jobs, each
told apart by a tag in its metadata, whose verdicts are known beforehand; a submission that gets no
answer is sent again under the same idempotency key. Server, judge, zygote, runners and builders
get SIGKILL in random order, some seconds apart, often before the last loss is made good. In the end
every job must have ended once, with its own tag and its own verdict.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe

__all__ = ["Account", "run"]

KINDS = ("server", "judge", "zygote", "runner", "builder")
_FINISHED = ("completed", "failed", "cancelled")

_RIGHT = """
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + y  # {tag}


def get_inputs():
    return [torch.randn(64), torch.randn(64)]
"""
_WRONG = _RIGHT.replace("x + y", "x - y")
_CUDA = """
extern "C" __global__ void add(const float* x, float* y) {{ y[threadIdx.x] = x[threadIdx.x] + 1; }}
// {tag}
"""


@dataclass
class Sent:
    """A job as its client knows it."""

    tag: str
    """What nothing but this job has."""
    path: str
    """Where its body goes."""
    body: dict[str, Any]
    """The request."""
    verdicts: tuple[str, ...]
    """What it may end with."""
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Its idempotency key."""
    job_id: str | None = None
    """What the server answered."""


@dataclass
class Account:
    """What became of a run."""

    kills: Counter[str] = field(default_factory=Counter)
    """Processes killed, by kind."""
    submitted: int = 0
    """Jobs that a client sent."""
    states: Counter[str] = field(default_factory=Counter)
    """States in which they ended."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """Verdicts with which they ended."""
    attempts: Counter[int] = field(default_factory=Counter)
    """How often jobs were begun."""
    lost: list[str] = field(default_factory=list)
    """Jobs that the server does not know, or that never ended."""
    duplicated: list[str] = field(default_factory=list)
    """Jobs that ended more than once, or that one key made twice."""
    mixed_up: list[str] = field(default_factory=list)
    """Jobs that were answered with what another asked for."""
    untruthful: list[str] = field(default_factory=list)
    """Jobs with a verdict that they cannot have, or that failed without the service saying why."""
    restarts: int = 0
    """Times that the server was started again."""
    seconds: float = 0.0
    """The whole run."""

    @property
    def sound(self) -> bool:
        """Whether no job is missing, doubled, mixed up or misjudged."""
        return not (self.lost or self.duplicated or self.mixed_up or self.untruthful)


class _Supervised:
    """A server that is started again whenever it ends."""

    def __init__(self, folder: Path, devices: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self._log = folder / "server.log"
        self._environment = {
            **os.environ,
            "KERNELJUDGE_STATE_DIR": str(folder / "state"),
            "KERNELJUDGE_DEVICES": devices,
            "KERNELJUDGE_MAX_ATTEMPTS": "1000",
            "KERNELJUDGE_QUARANTINE_SECONDS": "1",
        }
        self._stopping = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "kerneljudge", "serve", f"--port={self.port}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while not self._stopping:
            self._process.wait()
            if not self._stopping:
                self._process = self._start()

    def stop(self) -> None:
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(10)

    def wait_until_it_answers(self, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"the server did not answer; its log:\n{self._log.read_text()[-4000:]}")


def _processes(server: int) -> dict[str, list[int]]:
    """The processes of one server, by kind, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    found["server"] = [server]
    for judge in children.get(server, []):
        if b"kerneljudge.judging" not in _command(judge):
            continue
        found["judge"].append(judge)
        for zygote in children.get(judge, []):
            if b"kerneljudge.runtime.zygote" not in _command(zygote):
                continue
            found["zygote"].append(zygote)
            for child in children.get(zygote, []):
                with contextlib.suppress(OSError):
                    role = Path(os.readlink(f"/proc/{child}/cwd")).name.partition("-")[0]
                    if role in found:
                        found[role].append(child)
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _job(number: int, random_numbers: random.Random) -> Sent:
    tag = f"job-{number}-{random_numbers.getrandbits(64):x}"
    metadata = {"tag": tag}
    small = {"num_trials": 2, "num_warmup": 1, "num_checks": 1, "timeout": 120}

    def torch_kernel(source: str) -> dict[str, Any]:
        return {
            "source_code": source.format(tag=tag),
            "kernel_type": "torch",
            "metadata": metadata,
        }

    match number % 4:
        case 0:
            kernel = {
                "source_code": _CUDA.format(tag=tag),
                "kernel_type": "cuda",
                "metadata": metadata,
                "io": {
                    "args": [
                        {"name": name, "type": "tensor", "role": role, "tensor_spec": spec}
                        for name, role, spec in (
                            ("x", "input", {"shape": [32], "init": {"kind": "randn"}}),
                            ("y", "output", {"shape": [32]}),
                        )
                    ],
                    "launch": {"grid": {"x": 1}, "block": {"x": 32}},
                },
            }
            # It is compiled anywhere, and runs on a GPU alone.
            return Sent(tag, "/evaluate", {"kernel": kernel, **small}, ("accepted", "unsupported"))
        case 1:
            body = {
                "ref_kernel": torch_kernel(_RIGHT),
                "custom_kernel": torch_kernel(_WRONG),
                **small,
            }
            return Sent(tag, "/compare", body, ("wrong_answer",))
        case 2:
            body = {
                "ref_kernel": torch_kernel(_RIGHT),
                "custom_kernel": torch_kernel(_RIGHT),
                **small,
            }
            return Sent(tag, "/compare", body, ("accepted",))
        case _:
            return Sent(tag, "/evaluate", {"kernel": torch_kernel(_RIGHT), **small}, ("accepted",))


def _submit(client: httpx.Client, job: Sent, stop: threading.Event) -> None:
    """Sends a job until the server says that it has it."""
    while not stop.is_set():
        with contextlib.suppress(httpx.TransportError):
            answer = client.post(
                job.path,
                params={"wait": "false"},
                json=job.body,
                headers={"Idempotency-Key": job.key},
            )
            if answer.status_code in (200, 202):
                job.job_id = answer.json()["job_id"]
                return
            if answer.status_code not in (429, 500, 503):
                raise RuntimeError(f"HTTP {answer.status_code}: {answer.text}")
        time.sleep(0.2)


def run(
    folder: Path,
    *,
    kills: int,
    clients: int,
    devices: str,
    seed: int,
    pause: tuple[float, float],
    kinds: tuple[str, ...] = KINDS,
    say: Any = print,
) -> Account:
    """One whole run in `folder`. The same `seed` chooses the same victims and the same times,
    as far as the machine allows."""
    account = Account()
    began = time.monotonic()
    server = _Supervised(folder, devices)
    jobs: list[Sent] = []
    lock = threading.Lock()
    enough, given_up = threading.Event(), threading.Event()

    def client_loop(number: int) -> None:
        own = random.Random(seed * 1000 + number)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            while not enough.is_set():
                with lock:
                    job = _job(len(jobs), own)
                    jobs.append(job)
                _submit(client, job, given_up)
                # No faster than they are judged: what waits is to be lost if anything is.
                while not enough.is_set() and _unfinished(client) > 3 * clients:
                    time.sleep(0.2)

    threads = [threading.Thread(target=client_loop, args=(number,)) for number in range(clients)]
    try:
        server.wait_until_it_answers()
        for thread in threads:
            thread.start()
        for kind, pid in _kill(server, kills, random.Random(seed), pause, kinds):
            account.kills[kind] += 1
            say(f"kill {sum(account.kills.values())}/{kills}: {kind} {pid}")
        enough.set()
        server.wait_until_it_answers()
        for thread in threads:
            thread.join()
        _settle(server.url, jobs, account)
    finally:
        enough.set()
        given_up.set()
        server.stop()
    account.restarts = server.starts - 1
    account.seconds = time.monotonic() - began
    return account


def _unfinished(client: httpx.Client) -> int:
    try:
        by_status = client.get("/stats").json()["job_stats"]["by_status"]
    except (httpx.TransportError, KeyError, json.JSONDecodeError):
        return 0  # it is down: submitting will wait for it
    return sum(count for state, count in by_status.items() if state not in _FINISHED)


def _kill(
    server: _Supervised,
    kills: int,
    numbers: random.Random,
    pause: tuple[float, float],
    kinds: tuple[str, ...],
) -> Iterator[tuple[str, int]]:
    wanted = [kinds[number % len(kinds)] for number in range(kills)]
    numbers.shuffle(wanted)
    for kind in wanted:
        time.sleep(numbers.uniform(*pause))
        while True:
            # One of this kind may be there only for moments, as a builder is.
            there = _processes(server.pid)[kind]
            if there:
                victim = numbers.choice(there)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    yield kind, victim
                    break
            time.sleep(0.02)


def _settle(url: str, jobs: list[Sent], account: Account, seconds: float = 900) -> None:
    """Waits for every job, and books it."""
    account.submitted = len(jobs)
    deadline = time.monotonic() + seconds
    seen: set[str] = set()
    with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
        for job in jobs:
            if job.job_id is None:
                account.lost.append(f"{job.tag}: never accepted")
                continue
            if job.job_id in seen:
                account.duplicated.append(f"{job.tag}: its id {job.job_id} is another's too")
            seen.add(job.job_id)
            while True:
                answer = client.get(f"/job/{job.job_id}", params={"wait": 30})
                if answer.status_code != 200 or answer.json()["status"] in _FINISHED:
                    break
                if time.monotonic() > deadline:
                    break
            _book(client, job, answer, account)
        # A key that is sent again must not make another job.
        for job in jobs[:: max(1, len(jobs) // 20)]:
            before = job.job_id
            _submit(client, job, threading.Event())
            if job.job_id != before:
                account.duplicated.append(f"{job.tag}: its key made {before} and {job.job_id}")


def _book(client: httpx.Client, job: Sent, answer: httpx.Response, account: Account) -> None:
    told = answer.json()
    if answer.status_code != 200:
        account.lost.append(f"{job.tag}: HTTP {answer.status_code}")
        return
    account.states[told["status"]] += 1
    account.attempts[told["attempts"]] += 1
    if told["status"] not in _FINISHED:
        account.lost.append(f"{job.tag}: still {told['status']}")
        return
    result = told["result"] or {}
    verdict = result.get("verdict")
    account.verdicts[str(verdict)] += 1
    tags = {kernel.get("tag") for kernel in result.get("kernel_metadata", {}).values()}
    if tags != {job.tag}:
        account.mixed_up.append(f"{job.tag}: answered with {tags}")
    if verdict not in job.verdicts:
        account.untruthful.append(f"{job.tag}: {told['status']}, {verdict}: {told['error']}")
    with client.stream("GET", f"/job/{job.job_id}/events") as stream:
        ends = sum(
            json.loads(line.removeprefix("data:"))["status"] in _FINISHED
            for event, line in _events(stream)
            if event == "state"
        )
    if ends != 1:
        account.duplicated.append(f"{job.tag}: it ended {ends} times")


def _events(stream: httpx.Response) -> Iterator[tuple[str, str]]:
    name = "message"
    for line in stream.iter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            yield name, line


def _table(account: Account) -> Table:
    table = Table(title="Every job accounted for", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("how many", justify="right")
    rows: list[tuple[str, int]] = [
        *((f"killed: {kind}", account.kills[kind]) for kind in KINDS),
        ("killed in all", sum(account.kills.values())),
        ("server started again", account.restarts),
        ("jobs submitted", account.submitted),
        *((f"ended {state}", count) for state, count in sorted(account.states.items())),
        *((f"verdict {verdict}", count) for verdict, count in sorted(account.verdicts.items())),
        *((f"begun {times} ×", count) for times, count in sorted(account.attempts.items())),
        ("lost", len(account.lost)),
        ("ended twice, or doubled", len(account.duplicated)),
        ("answered with another's result", len(account.mixed_up)),
        ("misjudged, or failed", len(account.untruthful)),
    ]
    for name, count in rows:
        table.add_row(name, str(count))
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=100, help="processes to kill (100)")
    parser.add_argument("--clients", type=int, default=4, help="that submit at once (4)")
    parser.add_argument("--devices", default="cpu", help="as for kerneljudge serve (cpu)")
    parser.add_argument("--pause", type=float, nargs=2, default=(0.5, 5.0), metavar=("MIN", "MAX"))
    parser.add_argument("--seed", type=int, default=0, help="of the choice of victims (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    return parser.parse_args()


def main() -> int:
    """Runs the program. Returns 1 where a job is not accounted for."""
    arguments = _parse()
    console = Console(highlight=False)
    progress = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="kerneljudge-faults-") as name:
        account = run(
            Path(name),
            kills=arguments.kills,
            clients=arguments.clients,
            devices=arguments.devices,
            seed=arguments.seed,
            pause=tuple(arguments.pause),
            say=progress.print,
        )
    machine = describe("benchmarks.faults", arguments.commit, {})
    for key, value in machine.items():
        console.print(f"{key}: {value}", markup=False, soft_wrap=True)
    console.print(f"seconds: {account.seconds:.0f}")
    console.print(_table(account))
    for problem in (
        *account.lost,
        *account.duplicated,
        *account.mixed_up,
        *account.untruthful,
    ):
        console.print(problem, markup=False, soft_wrap=True)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"machine": machine, **vars(account)}, indent=2) + "\n", encoding="utf-8"
        )
    return 0 if account.sound else 1


if __name__ == "__main__":
    sys.exit(main())
