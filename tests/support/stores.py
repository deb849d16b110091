"""Jobs to store, for tests."""

from __future__ import annotations

import itertools
from typing import Any

from kerneljudge.schema import CompareRequest, EvaluateRequest, JobRequest, KernelCode, KernelType
from kerneljudge.service.records import Job, Lease, SubmittedKernel
from kerneljudge.service.store import SqlStore, StoreLimits

__all__ = ["NO_LIMITS", "add", "compare_request", "evaluate_request", "lease", "new_job"]

NO_LIMITS = StoreLimits()

_numbers = itertools.count()


def evaluate_request(source: str = "import torch", **options: Any) -> EvaluateRequest:
    """A request for one kernel."""
    return EvaluateRequest(
        kernel=KernelCode(source_code=source, kernel_type=KernelType.TORCH), **options
    )


def compare_request(source: str = "import torch", **options: Any) -> CompareRequest:
    """A request for two kernels."""
    kernel = KernelCode(source_code=source, kernel_type=KernelType.TORCH)
    return CompareRequest(ref_kernel=kernel, custom_kernel=kernel, **options)


def new_job(job_id: str | None = None, **values: Any) -> Job:
    """A job that is to be created, with an id of its own."""
    defaults: dict[str, Any] = {
        "kind": "evaluate",
        "kernels": {"candidate": SubmittedKernel(KernelType.TORCH, {})},
        "created_at": 1000.0,
    }
    return Job(job_id=job_id or f"job-{next(_numbers)}", **defaults | values)


async def add(store: SqlStore, *jobs: Job, request: JobRequest | None = None) -> None:
    """Creates jobs, without limits."""
    created = await store.create([(job, request or evaluate_request()) for job in jobs], NO_LIMITS)
    assert created == [(job, True) for job in jobs]


def lease(token: str = "token", server: str = "one", expires_at: float = 1030.0) -> Lease:
    """A lease."""
    return Lease(server, token, expires_at)
