"""Traces of jobs, for OpenTelemetry: one trace a job, a span for each thing that it waited for or
that was done with it.

A trace is made when its job has ended, from what the job tells of its times; nothing is traced
while something is timed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from kerneljudge.schema import JobReport, Phase
from kerneljudge.service.errors import ServiceError
from kerneljudge.service.records import Job, JobState

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["JobTracer"]

_PHASES: Final = (Phase.READ, Phase.BUILD, Phase.LOAD, Phase.CHECK, Phase.PROFILE)
# A shorter pause than this between a job's builds and its device is no wait.
_MIN_GAP: Final = 1e-3


class JobTracer:
    """Sends a trace of each job that has ended.

    A trace's id is that of its job, without the hyphens, so that whoever has the one has the other.
    """

    def __init__(self, endpoint: str, *, server: str, version: str) -> None:
        """Sends to an OTLP endpoint over HTTP, in the name of a server.

        Raises `ServiceError` where the extra `trace` is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise ServiceError(
                f"traces to {endpoint} need the extra `trace`, of which {error.name} is missing: "
                'pip install "kerneljudge[server,trace]", or leave trace_endpoint unset'
            ) from error
        resource = Resource.create(
            {
                "service.name": "kerneljudge",
                "service.version": version,
                "service.instance.id": server,
            }
        )
        self._ids = _ids()
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    def ended(self, job: Job) -> None:
        """Has the trace of a job sent, in the background."""
        self._ids.trace_id = uuid.UUID(job.job_id).int
        _record(self._provider.get_tracer("kerneljudge"), job)

    def close(self) -> None:
        """Sends what is left. Takes as long as the endpoint does, at most some seconds."""
        self._provider.shutdown()


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class _Ids(RandomIdGenerator):
        """The trace's id is set before its first span begins."""

        trace_id = 0

        def generate_trace_id(self) -> int:
            return self.trace_id

    return _Ids()


def _record(tracer: Tracer, job: Job) -> None:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.status import Status, StatusCode

    end = job.finished_at if job.finished_at is not None else job.created_at
    whole = tracer.start_span(
        job.kind,
        Context(),
        SpanKind.SERVER,
        _attributes(job),
        start_time=_nanoseconds(job.created_at),
    )
    inside = set_span_in_context(whole, Context())
    for name, start, seconds, attributes in _parts(job, end):
        span = tracer.start_span(
            name, inside, attributes=attributes, start_time=_nanoseconds(start)
        )
        span.end(_nanoseconds(start + seconds))
    if job.state is JobState.FAILED:
        whole.set_status(Status(StatusCode.ERROR, job.error))
    whole.end(_nanoseconds(end))


def _attributes(job: Job) -> dict[str, str | int | float]:
    candidate = job.kernels["candidate"]
    reference = job.kernels.get("reference")
    report = job.report
    told: Mapping[str, str | int | float | None] = {
        "job.id": job.job_id,
        "job.kind": job.kind,
        "job.state": job.state.value,
        "job.client": job.client,
        "job.priority": job.priority,
        "job.attempts": job.attempts,
        "job.verdict": job.verdict.value if job.verdict is not None else None,
        "job.error": job.error,
        "kernel.candidate.type": candidate.kernel_type.value,
        "kernel.reference.type": reference.kernel_type.value if reference is not None else None,
        "device.name": job.device_name,
        **(_of_report(report) if report is not None else {}),
    }
    return {name: value for name, value in told.items() if value is not None}


def _of_report(report: JobReport) -> dict[str, str | float | None]:
    fault, environment = report.fault, report.environment
    runtime = report.candidate.runtime
    return {
        "job.phase": report.phase.value,
        "fault.kind": fault.kind.value if fault is not None else None,
        "fault.side": fault.side if fault is not None else None,
        "fault.phase": fault.phase.value if fault is not None else None,
        "kernel.candidate.mean_ms": runtime.mean if runtime is not None else None,
        "job.speedup": report.speedup,
        "device.model": environment.device_name if environment is not None else None,
    }


def _parts(job: Job, end: float) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """Name, start, seconds and attributes of each thing that happened to the job.

    The phases before the device follow one another from the job's beginning on, the others from
    when it had its device.
    """
    started = job.started_at if job.started_at is not None else end
    yield "queue", job.created_at, max(started - job.created_at, 0.0), {}
    report = job.report
    if report is None:
        return
    at = started
    for phase in _PHASES:
        if phase is Phase.LOAD and job.acquired_at is not None:
            if job.acquired_at - at > _MIN_GAP:
                yield "wait for device", at, job.acquired_at - at, {}
            at = job.acquired_at
        seconds = report.phase_seconds.get(phase)
        if seconds is not None:
            yield phase.value, at, seconds, _of_phase(report, phase)
            at += seconds


def _of_phase(report: JobReport, phase: Phase) -> dict[str, Any]:
    """What is to say of a phase beside its time."""
    told: dict[str, Any] = {}
    if phase is Phase.BUILD:
        for side, one in (("reference", report.reference), ("candidate", report.candidate)):
            if one is not None and one.build is not None:
                told[f"build.{side}.way"] = one.build.way
                told[f"build.{side}.cached"] = one.build.cached
    if phase is Phase.CHECK:
        told["check.trials"] = len(report.checks)
        told["check.passed"] = sum(check.passed for check in report.checks)
    if phase is Phase.PROFILE and report.candidate.clock is not None:
        told["clock"] = report.candidate.clock.name
    if report.fault is not None and report.fault.phase is phase:
        told["fault.kind"] = report.fault.kind.value
        told["fault.side"] = report.fault.side
    return told


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
