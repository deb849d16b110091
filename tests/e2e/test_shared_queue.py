"""Two servers on one PostgreSQL share a queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pairs import REFERENCE, candidate, kernel

pytest_plugins = ["postgres"]
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FINISHED = {"completed", "failed", "cancelled"}


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The kernels run on once this file is there."""
    tmp_path.chmod(0o755)
    return tmp_path / "go"


@pytest.fixture
def servers(start_server: Callable[..., Any], postgres_url: str) -> list[Any]:
    """Two of them, each with one job at a time."""
    return [
        start_server(
            "cpu",
            KERNELJUDGE_DATABASE=postgres_url,
            KERNELJUDGE_POD_NAME=name,
            KERNELJUDGE_LEASE_SECONDS="2",
            KERNELJUDGE_JOBS_PER_DEVICE="1",
            KERNELJUDGE_STANDBY="1",
        )
        for name in ("first", "second")
    ]


def waiting(go: Path) -> dict[str, Any]:
    body = f"""
        import os, time
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
        return a + b
    """
    return {"ref_kernel": kernel(REFERENCE), "custom_kernel": candidate(body), "num_trials": 2}


def submitted(server: Any, body: dict[str, Any]) -> str:
    answer = httpx.post(f"{server.url}/compare?wait=false", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def told(server: Any, job_id: str, wait: float = 0) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/job/{job_id}", params={"wait": wait}, timeout=wait + 30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def states(server: Any, job_id: str) -> list[str]:
    """Every state that the job has had."""
    events = httpx.get(f"{server.url}/job/{job_id}/events", timeout=60).text
    return [
        json.loads(event.partition("data: ")[2].partition("\n")[0])["status"]
        for event in events.split("\n\n")
        if event.startswith("event: state\n")
    ]


def running(server: Any) -> dict[str, str]:
    """The job that runs on each server, by the server's name, as one of them tells it."""
    jobs = httpx.get(f"{server.url}/jobs?status=validating", timeout=30).json()["jobs"]
    return {job["server"].rpartition("-")[0]: job["job_id"] for job in jobs}


def until_both_run(server: Any) -> dict[str, str]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(found := running(server)) == 2:
            return found
        time.sleep(0.05)
    pytest.fail(f"only {found} runs")


def test_jobs_of_one_server_are_judged_watched_cancelled_and_taken_over_by_the_other(
    servers: list[Any], go: Path
) -> None:
    first, second = servers
    jobs = [submitted(first, waiting(go)) for _ in range(4)]
    on = until_both_run(second)
    assert set(on) == {"first", "second"}

    # What the first runs is cancelled through the second, which then has one more to run.
    answer = httpx.delete(f"{second.url}/job/{on['first']}", timeout=60)
    assert answer.status_code == 200, answer.text
    assert told(second, on["first"], wait=30)["status"] == "cancelled"
    cancelled = on["first"]
    on = until_both_run(second)

    # The first dies; a client that waits at the second for its job gets the verdict all the same.
    taken_over = on["first"]
    waited: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: waited.append(told(second, taken_over, wait=60)))
    client.start()
    first.process.kill()
    first.process.wait()
    go.touch()
    client.join()
    assert waited[0]["status"] == "completed", waited[0]
    assert waited[0]["attempts"] == 2

    for job_id in jobs:
        job = told(second, job_id, wait=60)
        expected = "cancelled" if job_id == cancelled else "completed"
        assert job["status"] == expected, job
        assert len([state for state in states(second, job_id) if state in FINISHED]) == 1
