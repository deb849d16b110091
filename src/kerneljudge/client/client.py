"""The Python client of a KernelJudge server."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from kerneljudge.api import (
    CleanupResponse,
    CompareResponse,
    EvaluateResponse,
    HealthResponse,
    JobResponse,
    StatsResponse,
)
from kerneljudge.client.decoding import decode, decode_judged
from kerneljudge.client.errors import ServerError
from kerneljudge.schema import KernelCode, to_json

__all__ = ["KernelJudgeClient"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


class KernelJudgeClient:
    """Sends kernels to a server and waits for their results; a context manager.

    A kernel is a `KernelCode` or a dict of the same fields. A kernel that fails is a result like
    any other: look at its `verdict`. Every method raises `RequestError` for a request that the
    server does not take, and `ServerError` where the server failed or cannot be reached.

    One client may be used from several threads at once.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        timeout: float = 120,
        *,
        queue_timeout: float = 600,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Opens no connection yet.

        `timeout` is the default of a job's own, in seconds. An answer is waited for until
        `queue_timeout` seconds after it, since a job may wait for its device.
        """
        self.base_url = base_url.rstrip("/")
        """Where the server is."""
        self.timeout = timeout
        """Seconds that a job may take, unless it says otherwise."""
        self._queue_timeout = queue_timeout
        self._http = httpx.Client(
            base_url=self.base_url,
            # A proxy for the outside world does not lead to this machine.
            trust_env=httpx.URL(self.base_url).host not in _LOOPBACK,
            transport=transport,
            limits=httpx.Limits(max_connections=None),
        )

    def evaluate(
        self,
        kernel: KernelCode | Mapping[str, Any],
        num_trials: int = 100,
        timeout: float | None = None,
        *,
        num_warmup: int | None = None,
        num_checks: int | None = None,
        seed: int | None = None,
    ) -> EvaluateResponse:
        """Builds, runs and times one kernel; what is None is left to the server's default."""
        body = {"kernel": kernel, "num_trials": num_trials}
        options = {"num_warmup": num_warmup, "num_checks": num_checks, "seed": seed}
        return decode_judged(self._judge("/evaluate", body, options, timeout), EvaluateResponse)

    def compare(
        self,
        ref_kernel: KernelCode | Mapping[str, Any],
        custom_kernel: KernelCode | Mapping[str, Any],
        num_trials: int = 100,
        timeout: float | None = None,
        *,
        num_warmup: int | None = None,
        num_checks: int | None = None,
        seed: int | None = None,
        atol: float | None = None,
        rtol: float | None = None,
    ) -> CompareResponse:
        """Checks a candidate against a reference, and times both.

        What is None is left to the server's default.
        """
        body = {"ref_kernel": ref_kernel, "custom_kernel": custom_kernel, "num_trials": num_trials}
        options = {
            "num_warmup": num_warmup,
            "num_checks": num_checks,
            "seed": seed,
            "atol": atol,
            "rtol": rtol,
        }
        return decode_judged(self._judge("/compare", body, options, timeout), CompareResponse)

    def health_check(self) -> HealthResponse:
        """The server's health and its devices. A server without a device is a `ServerError`."""
        return decode(self._send("GET", "/health"), HealthResponse)

    def get_job_status(self, job_id: str) -> JobResponse:
        """The state of a job, and its result once it has ended. An unknown id is a
        `RequestError` with the status 404."""
        return decode(self._send("GET", f"/job/{quote(job_id, safe='')}"), JobResponse)

    def get_stats(self) -> StatsResponse:
        """Counts and times since the server started."""
        return decode(self._send("GET", "/stats"), StatsResponse)

    def cleanup_jobs(self) -> CleanupResponse:
        """Drops the jobs that ended at least 300 seconds ago."""
        return decode(self._send("POST", "/admin/cleanup-jobs"), CleanupResponse)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

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

    def _judge(
        self,
        path: str,
        body: dict[str, Any],
        options: Mapping[str, Any],
        timeout: float | None,
    ) -> httpx.Response:
        seconds = self.timeout if timeout is None else timeout
        body["timeout"] = seconds
        body |= {name: value for name, value in options.items() if value is not None}
        return self._send("POST", path, to_json(body), seconds + self._queue_timeout)

    def _send(
        self,
        method: str,
        path: str,
        content: str | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else None
        try:
            return self._http.request(
                method,
                path,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
            )
        except httpx.ReadTimeout as error:
            raise ServerError(
                f"{self.base_url} gave no answer to {method} {path} within {seconds:g} s"
            ) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(
                f"cannot reach the server at {self.base_url}: {reason}; is it running "
                "(`kerneljudge serve`), and is this its address?"
            ) from error
