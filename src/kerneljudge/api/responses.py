"""What the server answers, as models: the server writes them, the client reads them.

The fields of the manual come first, with times in milliseconds rounded to 3 decimals; those that
KernelJudge adds follow, with full precision. Fields marked 'left out' are absent rather than null.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

from kerneljudge.schema import (
    CheckReport,
    Environment,
    Fault,
    Open,
    Phase,
    RuntimeStats,
    Side,
    SideReport,
    Verdict,
)

__all__ = [
    "BatchAcceptedResponse",
    "BatchResponse",
    "BatchResult",
    "BrokenRuleResponse",
    "CancelledResponse",
    "CleanupResponse",
    "ClientShare",
    "CompareResponse",
    "CompilationMetrics",
    "ConfinementLayer",
    "DeviceHealth",
    "ErrorResponse",
    "EvaluateResponse",
    "ExecutionMetadata",
    "GpuManager",
    "GpuUtilization",
    "HealthResponse",
    "InvalidRequestResponse",
    "JobEventResponse",
    "JobListResponse",
    "JobResponse",
    "JobStats",
    "JobSummary",
    "JudgedResponse",
    "KernelExecResult",
    "LiveResponse",
    "ProfilingMetrics",
    "QueueStats",
    "ReadyResponse",
    "Reply",
    "RuntimeStatistics",
    "ServerErrorResponse",
    "StatsResponse",
    "Throughput",
    "Tolerances",
    "ValidationIssue",
]


def _is_none(value: object) -> bool:
    return value is None


class _Items(BaseModel):
    """Reads attributes as items too, so that `result["status"]` and `result.status` agree."""

    def _items(self) -> dict[str, Any]:
        return dict(iter(self))

    def __getitem__(self, key: str) -> Any:
        return self._items()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._items()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, or `default` where there is no such field."""
        return self._items().get(key, default)

    def keys(self) -> Iterator[str]:
        """The names of the fields."""
        return iter(self._items())


class Reply(Open, _Items):
    """A part of an answer. Unknown keys are kept, so a client reads newer servers."""


class RuntimeStatistics(RuntimeStats, _Items):
    """Statistics of the timed runs, in milliseconds, rounded to 3 decimals."""


class ExecutionMetadata(Reply):
    """Facts of the run, and beside them the kernel's own metadata as it was submitted.

    Where a submitted key has the name of one of these fields, the fact stands here and the
    submitted value in `kernel_metadata`.
    """

    gpu_id: int | None = None
    """Index of the device; null where none took the job."""
    kernel_name: str | None = Field(default=None, exclude_if=_is_none)
    """What was launched. Left out where nothing was."""
    kernel_type: str | None = Field(default=None, exclude_if=_is_none)
    """The kernel type."""
    gpu_type: str | None = Field(default=None, exclude_if=_is_none)
    """`a100`, `h100` or `h200`. Left out where not recognised."""
    cuda_version: str | None = Field(default=None, exclude_if=_is_none)
    """CUDA version of the device's PyTorch. Left out without CUDA."""
    device_metrics: dict[str, Any] | None = Field(default=None, exclude_if=_is_none)
    """Hardware counters. Left out where none were taken."""


class KernelExecResult(Reply):
    """What became of the candidate, or of the sole kernel of /evaluate."""

    compiled: bool
    """Whether it was built and loaded."""
    correctness: bool
    """/compare: whether its outputs agree with the reference's; /evaluate: whether it ran
    without an error. False whenever the verdict is not `accepted`."""
    runtime: float = 0.0
    """Mean time in milliseconds; 0 where it was not profiled."""
    runtime_stats: RuntimeStatistics | None = None
    """Statistics of its times; null where it was not profiled."""
    metadata: ExecutionMetadata
    """Facts of the run, and the kernel's own metadata."""
    compilation_error: str | None = None
    """Why it was not compiled."""
    validation_error: str | None = None
    """Why it was compiled and is not correct."""


class Tolerances(Reply):
    """How outputs were compared."""

    atol: float
    """Absolute tolerance."""
    rtol: float
    """Relative tolerance."""
    exact_integers: bool | None = None
    """Whether integer and bool outputs were compared exactly."""


class JudgedResponse(Reply):
    """What both kinds of job answer."""

    job_id: str
    """The job."""
    status: Literal["success", "error"]
    """`success` with HTTP 200, whatever the verdict; `error` with HTTP 500."""
    error: str | None = Field(default=None, exclude_if=_is_none)
    """Why the status is `error`. Left out with `success`."""
    kernel_exec_result: KernelExecResult
    """What became of the candidate."""
    pod_name: str
    """The server's name."""
    pod_ip: str
    """The server's address."""
    gpu_type: str | None = Field(default=None, exclude_if=_is_none)
    """`a100`, `h100` or `h200`. Left out where not recognised."""

    verdict: Verdict
    """The one word for the job."""
    phase: Phase
    """The phase reached."""
    fault: Fault | None = None
    """The failure that decided the verdict."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time of each phase in seconds, both kernels together."""
    seed: int
    """The job's seed: send it again to get the same values."""
    checks: list[CheckReport] = Field(default_factory=list)
    """The correctness trials that ran, each with its seed and its statistics per output."""
    candidate: SideReport
    """All that is known of the candidate."""
    inputs_from: dict[str, str] = Field(default_factory=dict)
    """For each input, where its values came from."""
    transport: str | None = None
    """How tensors crossed between the judge and the runners."""
    transport_reason: str | None = None
    """Why not the preferred way."""
    task_warnings: list[str] = Field(default_factory=list)
    """What a wrong kernel could return and still pass this task."""
    environment: Environment | None = None
    """Where the job ran."""
    kernel_metadata: dict[Side, dict[str, Any]] = Field(default_factory=dict)
    """The metadata of each kernel, exactly as it was submitted."""


class EvaluateResponse(JudgedResponse):
    """The answer to POST /evaluate."""


class CompareResponse(JudgedResponse):
    """The answer to POST /compare."""

    ref_runtime: RuntimeStatistics
    """Statistics of the reference's times; zeros where it was not profiled."""
    speedup: float | None = None
    """Mean time of the reference over mean time of the candidate; null where either is missing."""
    reference: SideReport | None = None
    """All that is known of the reference."""
    tolerances: Tolerances | None = None
    """How outputs were compared; null where the job did not get so far."""


class ValidationIssue(Reply):
    """One thing that is wrong with a request."""

    field: str
    """Where: the path of the field, joined with ` -> `."""
    message: str
    """What is wrong."""
    type: str
    """The kind of mistake, in pydantic's words."""


class InvalidRequestResponse(Reply):
    """HTTP 400: the request does not have the form that it should have."""

    error: Literal["Invalid request format"] = "Invalid request format"
    """Always the same sentence."""
    validation_errors: list[ValidationIssue]
    """Every mistake that was found."""
    status: Literal["client_error"] = "client_error"
    """Always `client_error`."""


class BrokenRuleResponse(Reply):
    """HTTP 400 for a well-formed request that breaks a rule or a limit; HTTP 413 for one that is
    too big."""

    error: str
    """The rule, and what to do."""
    details: str
    """Where it is broken."""
    status: Literal["client_error"] = "client_error"
    """Always `client_error`."""


class ErrorResponse(Reply):
    """Any other refusal: 401, 403, 404, 405, 408, 409, 415 and 429."""

    error: str
    """What is wrong, and what to do."""
    status: Literal["error"] = "error"
    """Always `error`."""


class _Empty(BaseModel):
    """An empty object."""


class _NothingJudged(Reply):
    """What is answered where there is no result."""

    kernel_exec_result: _Empty = Field(default_factory=_Empty)
    """Empty."""
    ref_runtime: _Empty = Field(default_factory=_Empty)
    """Empty."""
    pod_name: str
    """The server's name."""
    pod_ip: str
    """The server's address."""
    error: str
    """Why there is no result."""


class ServerErrorResponse(_NothingJudged):
    """HTTP 500 for a job of which nothing is known; HTTP 503 where the server takes no jobs now."""

    status: Literal["error"] = "error"
    """Always `error`."""
    job_id: str | None = Field(default=None, exclude_if=_is_none)
    """The job. Left out where none was made."""
    gpu_id: int | None = Field(default=None, exclude_if=_is_none)
    """Index of its device. Left out where none took it."""


class CancelledResponse(_NothingJudged):
    """HTTP 409 for a job that was cancelled before it had a verdict."""

    status: Literal["cancelled"] = "cancelled"
    """Always `cancelled`."""
    job_id: str
    """The job."""


class JobSummary(Reply):
    """One job in a listing. Times are seconds since the epoch."""

    job_id: str
    """The job."""
    status: str
    """queued, submitted, compiling, validating, profiling, completed, failed or cancelled."""
    created_at: float
    """When it was submitted."""
    error: str | None = None
    """Why it failed or was cancelled."""
    kind: Literal["evaluate", "compare"]
    """What was asked for."""
    verdict: Verdict | None = None
    """Its verdict; null while it has none."""
    started_at: float | None = None
    """When a judge took it up, the last time."""
    finished_at: float | None = None
    """When it ended."""
    deadline_at: float | None = None
    """When its result is of no use any more: then it fails."""
    client: str = ""
    """Whose share of the devices it takes."""
    priority: int = 0
    """Higher goes first."""
    attempts: int = 0
    """Times that a server has taken it up."""
    server: str | None = None
    """The server that judges it, or did: its name, and what tells one start from the next."""
    device: str | None = None
    """The device that judges it, or did, such as `cuda:0`."""
    cancel_requested: bool = False
    """Whether it is cancelled as soon as its judge has let go of it."""


class JobResponse(JobSummary):
    """One job: the answer to GET /job/{job_id}, and to a POST that does not wait."""

    phase: Phase | None = None
    """The phase reached; null before the first."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time of each phase in seconds, so far."""
    result: CompareResponse | EvaluateResponse | ServerErrorResponse | CancelledResponse | None = (
        Field(default=None, union_mode="left_to_right")
    )
    """The body that a waiting POST is answered with; null while the job has not ended."""


class JobListResponse(Reply):
    """The answer to GET /jobs."""

    jobs: list[JobSummary]
    """The jobs, newest first."""
    next_cursor: str | None = None
    """What to send as `cursor` for the next page; null on the last."""


class JobEventResponse(Reply):
    """The data of an event `state` of GET /job/{job_id}/events."""

    number: int
    """1 for the job's first event, and so on; also the event's id."""
    at: float
    """When it happened, in seconds since the epoch."""
    status: str
    """The state of the job from then on."""
    phase: Phase | None = None
    """The phase that began, where a judge works on the job."""
    message: str | None = None
    """What else there is to say, such as why it was queued again."""


class BatchResult(Reply):
    """What one request of a batch is answered with."""

    status_code: int
    """The HTTP status that a POST of this request alone gets: 200, 409, 500 or 503."""
    body: CompareResponse | EvaluateResponse | ServerErrorResponse | CancelledResponse = Field(
        union_mode="left_to_right"
    )
    """The body that it gets."""


class BatchResponse(Reply):
    """The answer to POST /batch."""

    results: list[BatchResult]
    """One a request, in their order."""


class BatchAcceptedResponse(Reply):
    """The answer to a POST /batch that does not wait."""

    jobs: list[JobResponse]
    """One a request, in their order."""


class ConfinementLayer(Reply):
    """One of the rights that a kernel gives up before its source is read."""

    name: str
    """`landlock`, `network namespace`…"""
    active: bool
    """Whether kernels are confined by it."""
    reason: str | None = None
    """Why not, or what takes its place."""


class DeviceHealth(Reply):
    """One device."""

    index: int
    """Its position in the server's list."""
    name: str
    """`cuda:0`, `cpu`…"""
    ready: bool
    """Whether it takes jobs."""
    jobs: int
    """Jobs on it now."""
    health: str = "ready"
    """starting, ready, quarantined or stopped."""
    reason: str | None = None
    """Why it takes no jobs."""
    environment: Environment | None = None
    """What its judge reported of it."""
    confinement: list[ConfinementLayer] = []
    """The layers that confine its kernels, and those that this machine lacks."""


class JobStats(Reply):
    """The stored jobs, counted."""

    total_jobs: int
    """Stored jobs."""
    by_status: dict[str, int]
    """How many are in each state."""
    average_age: float
    """Mean seconds since submission."""


class GpuManager(Reply):
    """The GPUs, as the older server showed them."""

    available_gpus: list[int]
    """Ids of the GPUs that are ready and have no job."""


class HealthResponse(Reply):
    """The answer to GET /health: HTTP 200 when healthy, 500 when not."""

    status: Literal["healthy", "unhealthy"]
    """`healthy` where jobs are taken and at least one device judges them."""
    error: str | None = Field(default=None, exclude_if=_is_none)
    """Why it is unhealthy. Left out when healthy."""
    job_stats: JobStats
    """The stored jobs, counted."""
    gpu_manager: GpuManager
    """The GPUs."""
    compilation_service: Literal["ready", "unavailable"]
    """Whether kernels can be compiled."""
    profiling_service: Literal["ready", "unavailable"]
    """Whether kernels can be timed."""
    gpu_available: bool
    """Whether a GPU takes jobs."""
    gpu_count: int
    """GPUs that take jobs."""
    devices: list[DeviceHealth]
    """Every configured device."""
    database: Literal["ready", "unusable"] = "ready"
    """Whether the database answers."""
    draining: bool = False
    """Whether the server is stopping and takes no more jobs."""
    version: str
    """Version of the server."""


class LiveResponse(Reply):
    """The answer to GET /health/live."""

    status: Literal["live"] = "live"
    """Always `live`."""


class ReadyResponse(Reply):
    """The answer to GET /health/ready: HTTP 200 when ready, 503 when not."""

    status: Literal["ready", "unready"]
    """Whether jobs are taken and judged."""
    error: str | None = Field(default=None, exclude_if=_is_none)
    """Why not. Left out when ready."""


class CompilationMetrics(Reply):
    """Compilations: one a kernel. Times are of those that had something to compile."""

    total_compilations: int
    """Kernels that were to be compiled."""
    successful_compilations: int
    """Those that were built and loaded."""
    failed_compilations: int
    """Those that were not."""
    success_rate: float
    """Share of successes."""
    total_time_seconds: float
    """Seconds spent on them."""
    average_time_seconds: float
    """Their mean."""
    min_time_seconds: float
    """The shortest."""
    max_time_seconds: float
    """The longest."""
    cache_hits: int
    """Those of which every artefact came from the cache."""
    cache_misses: int
    """Those of which some did not."""
    cache_hit_rate: float
    """Share of hits."""


class ProfilingMetrics(Reply):
    """Profilings: one a job, both kernels together; and correctness, one a job that was checked."""

    total_profilings: int
    """Jobs whose kernels were to be timed."""
    successful_profilings: int
    """Those in which every kernel was."""
    failed_profilings: int
    """Those in which one failed."""
    success_rate: float
    """Share of successes."""
    total_time_seconds: float
    """Seconds spent on them."""
    average_time_seconds: float
    """Their mean."""
    min_time_seconds: float
    """The shortest."""
    max_time_seconds: float
    """The longest."""
    correctness_passed: int
    """Jobs whose trials all passed."""
    correctness_failed: int
    """Jobs of which one did not."""
    correctness_rate: float
    """Share of those that passed."""
    graph_captures: int
    """Kernels timed by a CUDA graph."""
    graph_fallbacks: int
    """Kernels timed by CUDA events instead."""
    graph_capture_rate: float
    """Share of those timed by a CUDA graph."""
    gpu_usage_times: dict[str, float]
    """Seconds of profiling on each device."""


class GpuUtilization(Reply):
    """The devices. Their time is that of the phases load, check and profile."""

    gpu_acquisitions: int
    """Jobs that were given a device."""
    gpu_releases: int
    """Those of them that ended."""
    active_sessions: int
    """Those that run."""
    total_gpu_time_seconds: float
    """Seconds during which jobs used a device."""
    total_wait_time_seconds: float
    """Seconds that jobs waited for a device, all of them."""
    average_wait_time_seconds: float
    """Their mean."""
    min_wait_time_seconds: float
    """The shortest."""
    max_wait_time_seconds: float
    """The longest."""
    utilization_by_gpu: dict[str, dict[str, float]]
    """For each device: jobs, busy_seconds, utilization_pct since the server started."""
    wait_time_by_client: dict[str, dict[str, float]]
    """For each client: jobs that were given a device, and the mean, shortest and longest wait.
    With an API key without the scope admin, its own alone."""


class Throughput(Reply):
    """Jobs over time."""

    server_uptime_seconds: float
    """Seconds since the server started."""
    server_uptime_minutes: float
    """The same in minutes."""
    total_requests: int
    """Jobs submitted."""
    completed_requests: int
    """Jobs that got a verdict in time."""
    failed_requests: int
    """Jobs that ran out of time, or that the service failed."""
    cancelled_requests: int
    """Jobs that were cancelled."""
    requeued_requests: int
    """Times that a job was put back into the queue, its judge or its device having failed."""
    resumed_requests: int
    """Times that a job was taken up again that a server had begun before."""
    active_requests: int
    """Jobs that have not ended."""
    success_rate: float
    """Share of successes."""
    requests_per_minute: float
    """Jobs submitted a minute, since the start."""
    requests_per_second: float
    """Jobs submitted a second, since the start."""
    recent_throughput_per_minute: float
    """Jobs that ended in the last 5 minutes, a minute."""
    average_end_to_end_time_seconds: float
    """Mean seconds from submission to end."""
    min_end_to_end_time_seconds: float
    """The shortest."""
    max_end_to_end_time_seconds: float
    """The longest."""


class ClientShare(Reply):
    """One client that has jobs."""

    weight: float
    """Its share against that of others."""
    share: float
    """Its share of the devices, from 0 to 1, while all of these clients have jobs."""
    waiting: int
    """Its jobs that wait."""
    running: int
    """Its jobs that run."""


class QueueStats(Reply):
    """What waits and runs at this server."""

    waiting: int
    """Jobs that wait."""
    running: int
    """Jobs that run."""
    builders: dict[str, int]
    """Builds: how many may run at once (size), how many do (busy), how many wait (waiting)."""
    clients: dict[str, ClientShare]
    """The clients that have jobs. With an API key without the scope admin, itself alone."""


class StatsResponse(Reply):
    """The answer to GET /stats: since the server started, rates from 0 to 1."""

    job_stats: JobStats
    """The stored jobs, counted."""
    timestamp: float
    """Now, in seconds since the epoch."""
    compilation_metrics: CompilationMetrics
    """Compilations."""
    profiling_metrics: ProfilingMetrics
    """Profilings and correctness."""
    gpu_utilization: GpuUtilization
    """Devices."""
    throughput: Throughput
    """Jobs over time."""
    queue: QueueStats
    """What waits and runs."""
    verdicts: dict[str, int]
    """Finished jobs by verdict."""
    jobs_completed: int
    """Jobs that got a verdict in time."""
    jobs_failed: int
    """Jobs that ran out of time, or that the service failed."""
    avg_runtime_ms: float
    """Mean over the profiled jobs of the candidate's mean time."""
    gpu_utilization_pct: float
    """Share of the time since the start during which a device was in use, over all devices."""
    uptime_seconds: float
    """Seconds since the server started."""


class CleanupResponse(Reply):
    """The answer to POST /admin/cleanup-jobs."""

    status: Literal["cleanup_completed"] = "cleanup_completed"
    """Always the same word."""
    removed_jobs: int
    """Jobs that were dropped."""
