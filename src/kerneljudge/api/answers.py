"""From a finished job to the body and the status that its client gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kerneljudge.api.responses import (
    CancelledResponse,
    CompareResponse,
    EvaluateResponse,
    ExecutionMetadata,
    JobResponse,
    JobSummary,
    KernelExecResult,
    RuntimeStatistics,
    ServerErrorResponse,
    Tolerances,
)
from kerneljudge.schema import (
    GPU_TYPES,
    CheckReport,
    Environment,
    Fault,
    JobReport,
    OutputReport,
    RuntimeStats,
    Verdict,
)
from kerneljudge.service import DeviceState, Job, JobState, Settings

__all__ = ["Answers", "JudgedBody"]

JudgedBody = EvaluateResponse | CompareResponse | ServerErrorResponse | CancelledResponse
"""What a job's end is told by."""

_STATUS_CODES = {JobState.COMPLETED: 200, JobState.FAILED: 500, JobState.CANCELLED: 409}
_UNFINISHED = "the server is stopping before the job has ended; the next one goes on with it"


@dataclass(frozen=True)
class Answers:
    """Writes answers in the name of one server."""

    settings: Settings
    """The server's settings: its name, its address, its GPU type."""

    def status_code(self, job: Job) -> int:
        """200 for a job with a verdict, 500 for one that failed, 409 for a cancelled one; 503 for
        one that has not ended, whose server stops."""
        return _STATUS_CODES.get(job.state, 503)

    def gpu_type(self, environment: Environment | None) -> str | None:
        """The GPU type, lower case, where it is recognised; the setting wins."""
        name = self.settings.gpu_type
        if name is None and environment is not None:
            name = environment.gpu_type
        if name is None or name.lower() not in GPU_TYPES:
            return None
        return name.lower()

    def judged(self, job: Job, device: DeviceState | None = None) -> JudgedBody:
        """The body that a POST of this job is answered with; `device` is the one that judged it."""
        report = job.report
        if job.state is JobState.CANCELLED:
            error = job.error or "the job was cancelled"
            return CancelledResponse(**self._pod(), error=error, job_id=job.job_id)
        if not job.state.finished or report is None:
            ended = job.error or "the job ended without a report"
            return ServerErrorResponse(
                **self._pod(),
                error=ended if job.state.finished else _UNFINISHED,
                job_id=job.job_id,
                gpu_id=_gpu_id(job, device),
            )
        environment = report.environment or (device.environment if device else None)
        gpu_type = self.gpu_type(environment)
        common: dict[str, Any] = {
            **self._pod(),
            "job_id": job.job_id,
            "status": "success" if job.error is None else "error",
            "error": job.error,
            "kernel_exec_result": KernelExecResult(
                compiled=report.candidate.compiled,
                correctness=report.verdict is Verdict.ACCEPTED,
                runtime=_rounded(report.candidate.runtime).mean,
                runtime_stats=_rounded(report.candidate.runtime)
                if report.candidate.runtime is not None
                else None,
                metadata=_metadata(
                    job,
                    gpu_id=_gpu_id(job, device),
                    kernel_name=report.candidate.kernel_name,
                    kernel_type=job.kernels["candidate"].kernel_type.value,
                    gpu_type=gpu_type,
                    cuda_version=environment.cuda if environment is not None else None,
                ),
                compilation_error=_compilation_error(report),
                validation_error=_validation_error(report),
            ),
            "gpu_type": gpu_type,
            "verdict": report.verdict,
            "phase": report.phase,
            "fault": report.fault,
            "phase_seconds": report.phase_seconds,
            "seed": report.seed,
            "checks": report.checks,
            "candidate": report.candidate,
            "inputs_from": report.inputs_from,
            "transport": report.transport,
            "transport_reason": report.transport_reason,
            "task_warnings": report.task_warnings,
            "environment": environment,
            "kernel_metadata": {side: kernel.metadata for side, kernel in job.kernels.items()},
        }
        if job.kind == "evaluate":
            return EvaluateResponse(**common)
        return CompareResponse(
            **common,
            ref_runtime=_rounded(report.reference.runtime if report.reference else None),
            speedup=report.speedup,
            reference=report.reference,
            tolerances=_tolerances(report),
        )

    def job(self, job: Job, device: DeviceState | None = None) -> JobResponse:
        """The body of GET /job/{job_id}."""
        report = job.report
        return JobResponse(
            **_summary(job),
            phase=report.phase if report is not None else None,
            phase_seconds=report.phase_seconds if report is not None else {},
            result=self.judged(job, device) if job.state.finished else None,
        )

    def summary(self, job: Job) -> JobSummary:
        """One entry of GET /jobs."""
        return JobSummary(**_summary(job))

    def failure(self, error: str, job_id: str | None = None) -> ServerErrorResponse:
        """The body for a failure of the server itself."""
        return ServerErrorResponse(**self._pod(), error=error, job_id=job_id)

    def _pod(self) -> dict[str, str]:
        return {"pod_name": self.settings.pod_name, "pod_ip": self.settings.pod_ip}


def _summary(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.state.value,
        "created_at": job.created_at,
        "error": job.error,
        "kind": job.kind,
        "verdict": job.verdict if job.state.finished else None,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "deadline_at": job.deadline_at,
        "client": job.client,
        "priority": job.priority,
        "attempts": job.attempts,
        "device": job.device_name,
        "server": job.server,
        "cancel_requested": job.cancel_requested,
    }


def _gpu_id(job: Job, device: DeviceState | None) -> int | None:
    """N of `cuda:N`, or the index of a device that has no such number."""
    name = job.device_name or (device.name if device is not None else "")
    if name.startswith("cuda:"):
        return int(name.removeprefix("cuda:"))
    return job.device


def _rounded(stats: RuntimeStats | None) -> RuntimeStatistics:
    if stats is None:
        return RuntimeStatistics()
    return RuntimeStatistics(**{name: round(value, 3) for name, value in stats})


def _metadata(job: Job, **facts: Any) -> ExecutionMetadata:
    submitted = job.kernels["candidate"].metadata
    own = {key: value for key, value in submitted.items() if key not in facts}
    # Hardware counters are the judge's to report, never the submitter's.
    own.pop("device_metrics", None)
    return ExecutionMetadata.model_validate({**own, **facts})


def _tolerances(report: JobReport) -> Tolerances | None:
    if report.atol is None or report.rtol is None:
        return None
    return Tolerances(atol=report.atol, rtol=report.rtol, exact_integers=report.exact_integers)


def _fault_text(fault: Fault) -> str:
    parts = [fault.message]
    if fault.hint:
        parts.append(f"Hint: {fault.hint}")
    if fault.exit_code is not None:
        parts.append(f"Exit code: {fault.exit_code}")
    if fault.traceback and fault.traceback.strip() not in fault.message:
        parts.append(fault.traceback)
    return "\n".join(parts)


def _reference_text(report: JobReport) -> str:
    fault = report.fault
    if fault is None:
        return "the reference failed"
    return (
        f"nothing is said of the candidate, because the reference failed in phase {fault.phase} "
        f"({fault.kind}): {_fault_text(fault)}"
    )


def _compilation_error(report: JobReport) -> str | None:
    candidate = report.candidate
    if candidate.compiled or report.verdict is Verdict.INTERNAL_ERROR:
        return None
    if candidate.fault is not None:
        return _fault_text(candidate.fault)
    if report.verdict is Verdict.REFERENCE_FAILED:
        return "the candidate was not compiled, because the reference failed first"
    return report.error


def _validation_error(report: JobReport) -> str | None:
    if report.verdict in (Verdict.ACCEPTED, Verdict.INTERNAL_ERROR):
        return None  # of a judge's failure, the field `error` tells
    if report.verdict is Verdict.REFERENCE_FAILED:
        return _reference_text(report)
    if not report.candidate.compiled:
        return None  # compilation_error tells it
    if report.verdict is Verdict.WRONG_ANSWER:
        return _mismatch_text(report)
    if report.fault is not None:
        return f"{report.fault.kind} in phase {report.fault.phase}: {_fault_text(report.fault)}"
    return report.error


def _mismatch_text(report: JobReport) -> str:
    """What differs, by how much, how many trials passed, and the tolerances."""
    failed = [check for check in report.checks if not check.passed]
    passed = len(report.checks) - len(failed)
    parts = [f"{passed}/{len(report.checks)} trials passed"]
    outputs = [output for check in failed for output in check.outputs]
    largest = [output.max_abs_error for output in outputs if output.max_abs_error is not None]
    means = [output.mean_abs_error for output in outputs if output.mean_abs_error is not None]
    if largest:
        parts.append(f"max difference {max(largest):.6g}")
    if means:
        parts.append(f"average difference {max(means):.6g}")
    if report.atol is not None and report.rtol is not None:
        parts.append(f"atol={report.atol:g}, rtol={report.rtol:g}")
    text = failed[0].message if failed and failed[0].message else _first_reason(failed)
    return f"{text} ({'; '.join(parts)})"


def _first_reason(failed: list[CheckReport]) -> str:
    wrong: list[OutputReport] = [
        output for check in failed for output in check.outputs if not output.matches
    ]
    if not wrong:
        return "the outputs differ from the reference's"
    return f"{wrong[0].name}: {wrong[0].reason or 'differs from the reference'}"
