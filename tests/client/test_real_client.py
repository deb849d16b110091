"""The client against a real server that judges on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kerneljudge.client import JobCancelled, JobResponse, KernelJudgeClient
from kerneljudge.schema import KernelCode, KernelType, Verdict

pytestmark = pytest.mark.e2e

MODEL = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2


def get_inputs():
    return [torch.randn(32, 8)]
"""


def kernel(source: str = MODEL, **metadata: Any) -> KernelCode:
    return KernelCode(source_code=source, kernel_type=KernelType.TORCH, metadata=metadata or None)


@pytest.fixture
def client(cpu_server: Any) -> Iterator[KernelJudgeClient]:
    with KernelJudgeClient(cpu_server.url) as opened:
        yield opened


def test_a_right_candidate_is_accepted_with_times_and_speedup(client: KernelJudgeClient) -> None:
    candidate = kernel(MODEL.replace("x * 2", "x + x").replace("Model(", "ModelNew("), mine=[1])
    result = client.compare(kernel(), candidate, num_trials=5, seed=3)
    assert result.verdict is Verdict.ACCEPTED, result.model_dump_json()
    assert result.kernel_exec_result.compiled
    assert result.kernel_exec_result.correctness
    stats = result.candidate.runtime
    assert stats is not None
    assert stats.min <= stats.median <= stats.percentile_95 <= stats.percentile_99 <= stats.max
    assert stats.std >= 0
    assert result.reference is not None
    assert result.reference.runtime is not None
    assert result.speedup == pytest.approx(result.reference.runtime.mean / stats.mean)
    assert result.seed == 3
    assert len(result.checks) == 2
    assert len({check.seed for check in result.checks}) == 2
    assert set(result.phase_seconds) == {"read", "build", "load", "check", "profile"}
    assert result.kernel_exec_result.metadata["mine"] == [1]


def test_a_wrong_candidate_is_told_where_it_is_wrong(client: KernelJudgeClient) -> None:
    wrong = kernel(MODEL.replace("x * 2", "x * 3").replace("Model(", "ModelNew("))
    result = client.compare(kernel(), wrong, num_trials=5)
    assert result.verdict is Verdict.WRONG_ANSWER
    assert not result.kernel_exec_result.correctness
    assert result.kernel_exec_result.validation_error is not None
    outputs = [output for check in result.checks for output in check.outputs]
    first = outputs[0].first_mismatch
    assert first is not None
    assert result.kernel_exec_result.runtime == 0


def test_failures_are_results_with_their_place(client: KernelJudgeClient) -> None:
    broken = client.evaluate(kernel("import no_such_module\n" + MODEL))
    assert broken.verdict is Verdict.COMPILE_ERROR
    assert broken.kernel_exec_result.compilation_error is not None
    assert "no_such_module" in broken.kernel_exec_result.compilation_error
    raising = client.evaluate(kernel(MODEL.replace("return x * 2", "raise ValueError('mine')")))
    assert raising.verdict is Verdict.RUNTIME_ERROR
    assert raising.kernel_exec_result.compiled
    assert raising.fault is not None
    assert "mine" in raising.fault.message + (raising.fault.traceback or "")


def test_running_out_of_time_is_a_result(client: KernelJudgeClient) -> None:
    endless = MODEL.replace("return x * 2", "\n        while True: pass")
    result = client.evaluate(kernel(endless), timeout=5)
    assert result.verdict is Verdict.TIMEOUT
    assert result.status == "error"
    assert client.get_job_status(result.job_id).status == "failed"
    assert client.evaluate(kernel(), num_trials=3).verdict is Verdict.ACCEPTED


def test_many_at_once_each_get_their_own_result(client: KernelJudgeClient) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(
            pool.map(
                lambda number: client.evaluate(kernel(mine=number), num_trials=2, seed=number),
                range(6),
            )
        )
    assert [result.seed for result in results] == list(range(6))
    assert [result.kernel_exec_result.metadata["mine"] for result in results] == list(range(6))
    assert len({result.job_id for result in results}) == 6
    assert all(result.verdict is Verdict.ACCEPTED for result in results)


def test_stats_tell_what_was_judged(client: KernelJudgeClient) -> None:
    before = client.get_stats()
    client.evaluate(kernel(), num_trials=3)
    after = client.get_stats()
    assert after.jobs_completed == before.jobs_completed + 1
    assert after.compilation_metrics.total_compilations == (
        before.compilation_metrics.total_compilations + 1
    )
    assert after.profiling_metrics.total_time_seconds > before.profiling_metrics.total_time_seconds
    assert after.gpu_utilization.total_gpu_time_seconds > (
        before.gpu_utilization.total_gpu_time_seconds
    )


ENDLESS = MODEL.replace("return x * 2", "\n        while True: pass")


def test_the_phases_of_a_job_are_told_in_their_order(client: KernelJudgeClient) -> None:
    job = client.submit({"kernel": kernel(), "num_trials": 3})
    *events, last = client.stream(job.job_id)
    assert [event.status for event in events] == [
        *("queued", "submitted"),
        *(event.status for event in events[2:-1]),
        "completed",
    ]
    order = ["compiling", "validating", "profiling"]
    met = [event.status for event in events[2:-1]]
    assert sorted(set(met), key=order.index) == order
    assert [order.index(status) for status in met] == sorted(map(order.index, met))
    assert isinstance(last, JobResponse)
    assert last.verdict is Verdict.ACCEPTED


def test_a_cancelled_job_frees_the_device_for_the_next(client: KernelJudgeClient) -> None:
    job = client.submit({"kernel": kernel(ENDLESS), "timeout": 600})
    for event in client.stream(job.job_id):
        if event.status == "validating":
            client.cancel(job.job_id)
    with pytest.raises(JobCancelled):
        client.wait(job.job_id)
    assert client.evaluate(kernel(), num_trials=3).verdict is Verdict.ACCEPTED


def test_a_batch_of_every_outcome_comes_back_in_order(client: KernelJudgeClient) -> None:
    sources = [MODEL, "import no_such_module", MODEL]
    outcomes = client.batch([{"kernel": kernel(one), "num_trials": 2} for one in sources])
    assert [getattr(outcome, "verdict", outcome) for outcome in outcomes] == [
        Verdict.ACCEPTED,
        Verdict.COMPILE_ERROR,
        Verdict.ACCEPTED,
    ]


def serve(port: str, state: Path, cache: Path) -> tuple[subprocess.Popen[str], str]:
    """A server with this database, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kerneljudge", "serve", "--port", port],
        env=os.environ
        | {
            "KERNELJUDGE_DEVICES": "cpu",
            "KERNELJUDGE_STATE_DIR": str(state),
            "KERNELJUDGE_CACHE_DIR": str(cache),
            "KERNELJUDGE_STANDBY": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r":(\d+)$", process.stdout.readline().strip())
    assert found
    return process, found[1]


@pytest.mark.slow
def test_what_is_waited_for_survives_the_server(tmp_path: Path) -> None:
    server, port = serve("0", tmp_path / "state", tmp_path / "cache")
    results: list[Any] = []
    told: list[Any] = []
    slow = kernel(MODEL.replace("return x * 2", "import time; time.sleep(0.05); return x * 2"))
    try:
        with KernelJudgeClient(f"http://127.0.0.1:{port}", retries=30) as client:
            waiting = threading.Thread(
                target=lambda: results.append(client.evaluate(slow, 100, num_warmup=0))
            )
            waiting.start()
            while not (jobs := [job for job in client.jobs() if job.status == "profiling"]):
                pass
            watching = threading.Thread(target=lambda: told.extend(client.stream(jobs[0].job_id)))
            watching.start()
            server.kill()
            server.wait()
            server, _ = serve(port, tmp_path / "state", tmp_path / "cache")
            waiting.join()
            watching.join()
            (only,) = client.jobs()
    finally:
        server.terminate()
        server.wait()
    (result,) = results
    assert result.verdict is Verdict.ACCEPTED
    assert result.job_id == only.job_id == jobs[0].job_id
    assert only.attempts == 2
    assert [event.number for event in told[:-1]] == list(range(1, len(told)))
    assert told[-1].verdict is Verdict.ACCEPTED
