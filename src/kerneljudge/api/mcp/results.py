"""What the tools answer: models whose schema the client is told, and the same as text to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from pydantic import Field

from kerneljudge.api.responses import (
    CompareResponse,
    ExecutionMetadata,
    JobResponse,
    JobStats,
    JudgedResponse,
    Reply,
    RuntimeStatistics,
    Tolerances,
)
from kerneljudge.schema import BuildReport, ClockReport, Environment, Phase, Verdict

__all__ = [
    "DEVICE_METRICS_UNAVAILABLE",
    "GpuInfo",
    "GpuMemory",
    "JobStatus",
    "Judgement",
    "Outcome",
    "Problem",
    "ServerStats",
    "Validation",
    "gpu_info",
]

DEVICE_METRICS_UNAVAILABLE = (
    "this version does not read hardware counters; runtime_stats and clock tell the times and how "
    "they were taken"
)
"""The answer to `enable_device_metrics`."""


class Problem(Reply):
    """One mistake in the arguments of a call."""

    field: str
    """Where: the argument, and the path into it joined with ` -> `."""
    message: str
    """What is wrong, and what is right."""


class Outcome(Reply):
    """What every call that judges answers, whatever became of it."""

    job_id: str | None = None
    """The job, for `get_job_status`; null where there is none."""
    status: str
    """`completed`: there is a verdict. `failed`: the job ran out of time, or there is none: `error`
    says why. `cancelled`: somebody cancelled it."""
    error: str | None = None
    """Why there is no verdict, or why the job failed."""
    problems: list[Problem] = Field(default_factory=list)
    """Every mistake in the arguments; mend them and call again."""
    example: dict[str, Any] | None = None
    """Right input for the arguments that are wrong."""
    retry_after: float | None = None
    """Seconds after which the same call may succeed; null if waiting does not help."""
    verdict: Verdict | None = None
    """The one word: `accepted`, or how the kernel failed."""
    phase: Phase | None = None
    """How far it came: read, build, load, check, profile, done."""
    compiled: bool | None = None
    """Whether the kernel was built and loaded."""
    compilation_error: str | None = None
    """Why it was not."""
    validation_error: str | None = None
    """Why it is not correct, although it was."""
    hint: str | None = None
    """How to mend it."""
    notes: list[str] = Field(default_factory=list)
    """What else to know of this run."""
    device: str | None = None
    """Name of the GPU or the processor that it ran on."""
    metadata: ExecutionMetadata | None = None
    """What was launched, on which device, and the kernel's own metadata."""

    @classmethod
    def refused(
        cls,
        error: str,
        *,
        job_id: str | None = None,
        problems: Sequence[Problem] = (),
        example: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> Self:
        """The answer where there is no result: `job_id` is the job's, if it goes on."""
        return cls(
            job_id=job_id,
            status="failed",
            error=error,
            problems=list(problems),
            example=example,
            retry_after=retry_after,
            # A mistake in the arguments is told before anything is compiled; of a server that
            # does not take the job, nothing is said of the kernel.
            compiled=False if problems else None,
        )

    @property
    def says_nothing(self) -> bool:
        """Whether nothing is said of the kernel: the call failed, rather than the kernel."""
        return self.verdict in (None, Verdict.INTERNAL_ERROR)

    def text(self) -> str:
        """The same, to be read."""
        word = self.verdict.value if self.verdict is not None else "not judged"
        where = f" on {self.device}" if self.device is not None else ""
        lines = [f"{word}{where} ({self.status}, job {self.job_id})" if self.job_id else word]
        told = (self.compilation_error, self.validation_error, self.error)
        lines += [text for text in told if text is not None]
        if self.hint is not None and not any(self.hint in line for line in lines):
            lines.append(f"Hint: {self.hint}")
        lines += self._details()
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"- {problem.field}: {problem.message}" for problem in self.problems]
        if self.example is not None:
            example = json.dumps(self.example, ensure_ascii=False)
            lines += ["Right input would be, for example:", example]
        if self.retry_after is not None:
            lines.append(f"Try again in {self.retry_after:g} s.")
        return "\n".join(lines)

    def _details(self) -> list[str]:
        """What one kind of answer says beyond the others."""
        return []


class Validation(Outcome):
    """The answer of `validate_kernel`."""

    validated: bool = False
    """Whether it ran on its contract's inputs without an error."""
    compilation_time: float | None = None
    """Seconds until it was built and loaded; null where it did not come so far."""
    build: BuildReport | None = None
    """How it was compiled, with the compiler's warnings."""

    @classmethod
    def of(cls, job: JobResponse) -> Validation:
        """The same job, seen as a validation."""
        judged = _judged(job)
        if judged is None:
            return cls(**_unjudged(job))
        seconds = judged.phase_seconds
        compiled = judged.kernel_exec_result.compiled
        return cls(
            **_common(job, judged),
            validated=judged.verdict is Verdict.ACCEPTED,
            compilation_time=seconds.get("build", 0.0) + seconds.get("load", 0.0)
            if compiled
            else None,
            build=judged.candidate.build,
        )

    def _details(self) -> list[str]:
        if self.compilation_time is None:
            return []
        return [f"built and loaded in {self.compilation_time:.2f} s"]


class Judgement(Outcome):
    """The answer of `evaluate_kernel` and `compare_kernels`. Times are in milliseconds."""

    correctness: bool | None = None
    """With a reference: whether the outputs agree with it; without: whether the kernel ran."""
    speedup: float | None = None
    """Mean time of the reference over mean time of the kernel; null where either is missing."""
    runtime: float | None = None
    """Mean time of the kernel; null where it was not timed."""
    runtime_stats: RuntimeStatistics | None = None
    """Statistics of its times."""
    clock: ClockReport | None = None
    """What timed it, over how many runs."""
    ref_runtime: RuntimeStatistics | None = None
    """Statistics of the reference's times."""
    ref_clock: ClockReport | None = None
    """What timed the reference."""
    tolerances: Tolerances | None = None
    """How outputs were compared."""
    seed: int | None = None
    """The seed of all values."""
    device_metrics_unavailable: str | None = None
    """Why there are no hardware counters, where they were asked for."""

    @classmethod
    def of(cls, job: JobResponse) -> Judgement:
        """The same job, seen as a judgement."""
        judged = _judged(job)
        if judged is None:
            return cls(**_unjudged(job))
        result = judged.kernel_exec_result
        answer = cls(
            **_common(job, judged),
            correctness=result.correctness,
            runtime=result.runtime if result.runtime_stats is not None else None,
            runtime_stats=result.runtime_stats,
            clock=judged.candidate.clock,
            seed=judged.seed,
        )
        if isinstance(judged, CompareResponse):
            reference = judged.reference
            answer.speedup = judged.speedup
            answer.tolerances = judged.tolerances
            if reference is not None and reference.runtime is not None:
                answer.ref_runtime = judged.ref_runtime
                answer.ref_clock = reference.clock
        return answer

    def _details(self) -> list[str]:
        lines = []
        if self.speedup is not None:
            lines.append(f"speedup {self.speedup:.3f} over the reference")
        if self.runtime_stats is not None:
            lines.append(f"kernel: {_times(self.runtime_stats)}; {_timed_by(self.clock)}")
        if self.ref_runtime is not None:
            lines.append(f"reference: {_times(self.ref_runtime)}; {_timed_by(self.ref_clock)}")
        if self.tolerances is not None:
            used = self.tolerances
            lines.append(f"tolerances: atol {used.atol:g}, rtol {used.rtol:g}")
        if self.device_metrics_unavailable is not None:
            lines.append(f"no hardware counters: {self.device_metrics_unavailable}")
        return lines


class JobStatus(Reply):
    """The answer of `get_job_status`. Times are seconds since the epoch."""

    job_id: str
    """The job."""
    status: str
    """queued, submitted, compiling, validating, profiling, completed, failed or cancelled;
    `not_found` where there is no such job."""
    error: str | None = None
    """Why it failed, was cancelled or is not found."""
    kind: str | None = None
    """`evaluate` or `compare`."""
    created_at: float | None = None
    """When it was submitted."""
    started_at: float | None = None
    """When a judge took it up."""
    finished_at: float | None = None
    """When it ended."""
    phase: Phase | None = None
    """The phase reached."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time of each phase so far."""
    result: Judgement | None = None
    """What came of it; null while it runs."""

    @classmethod
    def of(cls, job: JobResponse) -> JobStatus:
        """The state of a job, with its result once it has ended."""
        return cls(
            job_id=job.job_id,
            status=job.status,
            error=job.error,
            kind=job.kind,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            phase=job.phase,
            phase_seconds=job.phase_seconds,
            result=Judgement.of(job) if job.finished_at is not None else None,
        )

    @classmethod
    def not_found(cls, job_id: str) -> JobStatus:
        """There is no such job, or none that the caller may see."""
        return cls(
            job_id=job_id,
            status="not_found",
            error="there is no such job: it was never submitted here, belongs to another key, or "
            "ended so long ago that it was dropped",
        )

    def text(self) -> str:
        """The same, to be read."""
        lines = [f"job {self.job_id}: {self.status}"]
        if self.phase is not None and self.result is None:
            lines[0] += f", in phase {self.phase}"
        if self.result is not None:
            lines.append(self.result.text())
        elif self.error is not None:
            lines.append(self.error)
        return "\n".join(lines)


@dataclass(frozen=True)
class GpuMemory:
    """The memory of one GPU in MiB; None where it is not known."""

    used: float | None
    """In use, by all processes."""
    reserved: float | None
    """Kept by the driver for itself."""
    total: float | None
    """All of it."""


class GpuInfo(Reply):
    """One GPU."""

    device_id: int
    """N of `cuda:N`."""
    device_name: str | None = None
    """Its name; null until its judge has started."""
    memory_allocated_mb: float | None = None
    """MiB in use on it, by all processes."""
    memory_reserved_mb: float | None = None
    """MiB that the driver keeps for itself."""
    memory_total_mb: float | None = None
    """MiB that it has."""
    memory_unavailable: str | None = None
    """Why a figure of its memory is null."""
    ready: bool
    """Whether it takes jobs."""
    jobs: int
    """Jobs on it now."""


class _Device(Protocol):
    """A device, as the service or its /health tells of it."""

    @property
    def name(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def jobs(self) -> int: ...
    @property
    def environment(self) -> Environment | None: ...


def gpu_info(
    devices: Iterable[_Device],
    memory: Mapping[int, GpuMemory] | str,
    totals: Mapping[str, int | None] | None = None,
) -> list[GpuInfo]:
    """The GPUs among the devices.

    `memory` is by N of `cuda:N`, or says why there is none; `totals` are what the devices' judges
    found, in bytes by name.
    """
    told = []
    for device in devices:
        if not device.name.startswith("cuda:"):
            continue
        number = int(device.name.removeprefix("cuda:"))
        total = (totals or {}).get(device.name)
        own = (memory if isinstance(memory, Mapping) else {}).get(number)
        if own is None:
            own = GpuMemory(None, None, total / 2**20 if total is not None else None)
        missing = None in (own.used, own.reserved, own.total)
        why = memory if isinstance(memory, str) else "nvidia-smi does not tell it of this GPU"
        told.append(
            GpuInfo(
                device_id=number,
                device_name=device.environment.device_name if device.environment else None,
                memory_allocated_mb=own.used,
                memory_reserved_mb=own.reserved,
                memory_total_mb=own.total,
                memory_unavailable=why if missing else None,
                ready=device.ready,
                jobs=device.jobs,
            )
        )
    return told


class ServerStats(Reply):
    """The answer of `get_server_stats`."""

    status: str
    """`healthy` where at least one device takes jobs, else `unhealthy`."""
    error: str | None = None
    """Why it is unhealthy."""
    gpu_available: bool
    """Whether a GPU takes jobs. Without one, kernels are judged on the CPU, if at all."""
    gpu_count: int
    """GPUs that take jobs."""
    gpu_info: list[GpuInfo]
    """Every GPU of the server."""
    job_stats: JobStats
    """The stored jobs, counted."""
    version: str
    """Version of the server."""

    def text(self) -> str:
        """The same, to be read."""
        states = ", ".join(f"{count} {state}" for state, count in self.job_stats.by_status.items())
        lines = [
            f"{self.status}: {self.error}" if self.error else self.status,
            f"{self.gpu_count} GPUs take jobs" if self.gpu_available else "no GPU takes jobs",
            *(self._gpu_text(gpu) for gpu in self.gpu_info),
            f"{self.job_stats.total_jobs} jobs" + (f": {states}" if states else ""),
        ]
        return "\n".join(lines)

    @staticmethod
    def _gpu_text(gpu: GpuInfo) -> str:
        state = "ready" if gpu.ready else "not ready"
        line = f"cuda:{gpu.device_id} {gpu.device_name or ''}: {state}, {gpu.jobs} jobs"
        if gpu.memory_allocated_mb is not None and gpu.memory_total_mb is not None:
            line += f", {gpu.memory_allocated_mb:.0f} of {gpu.memory_total_mb:.0f} MiB in use"
        return line


def _judged(job: JobResponse) -> JudgedResponse | None:
    return job.result if isinstance(job.result, JudgedResponse) else None


def _unjudged(job: JobResponse) -> dict[str, Any]:
    """A job of which nothing is known but that it ended."""
    return {
        "job_id": job.job_id,
        "status": job.status,
        "error": job.error or "the job ended without a report",
    }


def _common(job: JobResponse, judged: JudgedResponse) -> dict[str, Any]:
    result = judged.kernel_exec_result
    return {
        "job_id": job.job_id,
        "status": job.status,
        "error": job.error,
        "verdict": judged.verdict,
        "phase": judged.phase,
        "compiled": result.compiled,
        "compilation_error": result.compilation_error,
        "validation_error": result.validation_error,
        "hint": judged.fault.hint if judged.fault is not None else None,
        "notes": [*judged.candidate.notes, *judged.task_warnings],
        "device": judged.environment.device_name if judged.environment is not None else None,
        "metadata": result.metadata,
    }


def _times(stats: RuntimeStatistics) -> str:
    return (
        f"mean {stats.mean:g} ms, median {stats.median:g}, std {stats.std:g}, "
        f"p95 {stats.percentile_95:g}"
    )


def _timed_by(clock: ClockReport | None) -> str:
    if clock is None:
        return "clock unknown"
    why = f" ({clock.fallback_reason})" if clock.fallback_reason else ""
    return f"{clock.samples} runs after {clock.warmup} untimed, by {clock.name}{why}"
