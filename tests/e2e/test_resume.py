"""Whatever process dies, and whenever: every accepted job ends with exactly one verdict."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pairs import REFERENCE, candidate, kernel
from processes import alive, command_lines, descendants, parent

pytestmark = pytest.mark.e2e

Start = Callable[[], Any]


@pytest.fixture
def start(start_server: Callable[..., Any], tmp_path: Path) -> Start:
    """Starts a server, each time on the same state folder."""

    def begin() -> Any:
        return start_server(
            "cpu",
            KERNELJUDGE_STATE_DIR=str(tmp_path / "state"),
            KERNELJUDGE_STANDBY="2",
            KERNELJUDGE_JOBS_PER_DEVICE="2",
            KERNELJUDGE_SHUTDOWN_GRACE="0",
        )

    return begin


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """Kernels made with `waiting` run on once this file is there."""
    tmp_path.chmod(0o755)
    return tmp_path / "go"


def waiting(go: Path) -> dict[str, Any]:
    """A comparison whose candidate waits, and so can be killed while it runs."""
    body = f"""
        import os, time
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
        return a + b
    """
    return {"ref_kernel": kernel(REFERENCE), "custom_kernel": candidate(body), "num_trials": 2}


def quick() -> dict[str, Any]:
    body = {"custom_kernel": candidate("return b + a"), "num_trials": 2}
    return {"ref_kernel": kernel(REFERENCE), **body}


def submitted(server: Any, body: dict[str, Any]) -> str:
    answer = httpx.post(f"{server.url}/compare?wait=false", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def told(server: Any, job_id: str, wait: float = 0) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/job/{job_id}", params={"wait": wait}, timeout=wait + 30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until_validating(server: Any, job_id: str) -> None:
    """Returns when the job's trials have begun."""
    with httpx.stream("GET", f"{server.url}/job/{job_id}/events", timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and '"validating"' in line:
                return
    pytest.fail("the job ended before it was killed")


def assert_one_verdict(server: Any, job_id: str) -> None:
    job = told(server, job_id, wait=60)
    assert job["status"] == "completed", job
    assert job["result"]["verdict"] == "accepted", job["result"]
    events = httpx.get(f"{server.url}/job/{job_id}/events", timeout=60).text
    assert events.count('"status":"completed"') - events.count("event: end") == 1, events


def pids(server: Any, module: str) -> list[int]:
    """The processes of a server that run a module, but not what they forked."""
    lines = command_lines(descendants(server.process.pid))
    found = [pid for pid, line in lines.items() if module in line]
    return [pid for pid in found if parent(pid) not in {None, *found}]


def test_a_killed_server_resumes_running_and_waiting_jobs(start: Start, go: Path) -> None:
    server = start()
    running = [submitted(server, waiting(go)) for _ in range(2)]
    until_validating(server, running[0])
    queued = [submitted(server, quick()) for _ in range(3)]
    left = descendants(server.process.pid)
    server.process.kill()
    server.process.wait()
    go.touch()
    server = start()
    for job_id in (*running, *queued):
        assert_one_verdict(server, job_id)
    while any(alive(pid) for pid in left):
        time.sleep(0.05)


def test_a_killed_judge_and_a_killed_zygote_lose_no_job_and_neither_does_stopping(
    start: Start, go: Path
) -> None:
    server = start()
    for module in ("kerneljudge.judging", "kerneljudge.runtime.zygote"):
        job_id = submitted(server, waiting(go))
        until_validating(server, job_id)
        (pid,) = pids(server, module)
        os.kill(pid, signal.SIGKILL)
        go.touch()
        assert_one_verdict(server, job_id)
        go.unlink()

    answers: list[httpx.Response] = []
    client = threading.Thread(
        target=lambda: answers.append(
            httpx.post(f"{server.url}/compare", json=waiting(go), timeout=120)
        )
    )
    client.start()
    while not (jobs := httpx.get(f"{server.url}/jobs?status=validating").json()["jobs"]):
        time.sleep(0.05)
    server.process.terminate()
    assert server.process.wait(60) == 0
    client.join()
    assert answers[0].status_code == 503
    assert answers[0].headers["Location"] == f"/job/{jobs[0]['job_id']}"
    go.touch()
    assert_one_verdict(start(), jobs[0]["job_id"])
