"""The client against a real server that judges on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kerneljudge.client import KernelJudgeClient
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
