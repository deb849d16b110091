"""The client whose results are dicts."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from kerneljudge.api import CompareResponse
from kerneljudge.client import Judged, KernelJudgeClient, ServerError
from kerneljudge.schema import KernelCode

__all__ = ["KernelEvalClient"]

_Kernel = KernelCode | Mapping[str, Any]


class KernelEvalClient:
    """Sends kernels to a server and waits for their results; a context manager.

    Results are dicts as the server's JSON has them, but for `runtime_stats` and `ref_runtime`:
    those are `RuntimeStats`, read as attributes or as items. Every answer that is no success
    raises a `kerneljudge.client.KernelJudgeError`, also that to a job that ran out of time.
    """

    def __init__(self, base_url: str | None = None, timeout: float = 120) -> None:
        """Opens no connection yet.

        The server is http://localhost:8000 unless `base_url` or KERNELJUDGE_URL says otherwise.
        """
        self._client = KernelJudgeClient(base_url, timeout)
        self.base_url = self._client.base_url
        """Where the server is."""
        self.timeout = timeout
        """Seconds that a job may take, unless it says otherwise."""

    def compare(
        self,
        ref_kernel: _Kernel,
        custom_kernel: _Kernel,
        num_trials: int = 100,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Checks a candidate against a reference, and times both."""
        return _body(self._client.compare(ref_kernel, custom_kernel, num_trials, timeout))

    def evaluate(
        self, kernel: _Kernel, num_trials: int = 100, timeout: float | None = None
    ) -> dict[str, Any]:
        """Builds, runs and times one kernel."""
        return _body(self._client.evaluate(kernel, num_trials, timeout))

    def health_check(self) -> dict[str, Any]:
        """The server's health."""
        return self._client.health_check().model_dump(mode="json")

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The state of a job."""
        return self._client.get_job_status(job_id).model_dump(mode="json")

    def get_stats(self) -> dict[str, Any]:
        """Counts and times since the server started."""
        return self._client.get_stats().model_dump(mode="json")

    def cleanup_jobs(self) -> dict[str, Any]:
        """Drops the jobs that ended at least 300 seconds ago."""
        return self._client.cleanup_jobs().model_dump(mode="json")

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        self.close()


def _body(result: Judged) -> dict[str, Any]:
    body = result.model_dump(mode="json")
    if result.status == "error":
        raise ServerError(
            f"HTTP 500: {result.error or result.verdict.value}", status_code=500, body=body
        )
    body["kernel_exec_result"]["runtime_stats"] = result.kernel_exec_result.runtime_stats
    if isinstance(result, CompareResponse):
        body["ref_runtime"] = result.ref_runtime
    return body
