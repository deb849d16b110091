"""Traces arrive at an OTLP endpoint, with the times and the verdict of their jobs."""

from __future__ import annotations

import gzip
import json
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pairs
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from scripted import accepted, failed

from kerneljudge.schema import EvaluateRequest, FaultKind, KernelCode, KernelType, Phase
from kerneljudge.service import ServiceError
from kerneljudge.service.records import Job, JobState, SubmittedKernel
from kerneljudge.service.tracing import JobTracer

pytestmark = pytest.mark.integration

REQUEST = EvaluateRequest(kernel=KernelCode(source_code="x = 1", kernel_type=KernelType.TORCH))
STARTED = 1_700_000_000.0


@dataclass
class Collector:
    """An OTLP endpoint over HTTP, which keeps what it is sent."""

    url: str
    received: queue.Queue[tuple[str, ExportTraceServiceRequest]]

    def spans(self) -> tuple[dict[str, Span], dict[str, Any]]:
        """The spans of the next delivery by their names, and their resource."""
        path, message = self.received.get(timeout=30)
        assert path == "/v1/traces"
        (resource,) = message.resource_spans
        found = {span.name: span for scope in resource.scope_spans for span in scope.spans}
        return found, attributes(resource.resource)


@pytest.fixture
def collector() -> Iterator[Collector]:
    received: queue.Queue[tuple[str, ExportTraceServiceRequest]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.put((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Collector(f"http://127.0.0.1:{server.server_address[1]}", received)
        server.shutdown()
        thread.join()


def attributes(of: Any) -> dict[str, Any]:
    return {
        entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in of.attributes
    }


def times(span: Span) -> tuple[float, float]:
    """Seconds after submission at which a span begins and ends."""
    return (
        round(span.start_time_unix_nano / 1e9 - STARTED, 3),
        round(span.end_time_unix_nano / 1e9 - STARTED, 3),
    )


def ended() -> Job:
    """A job that waited 1 s, was built in 0.2 s, and waited 0.7 s more for its device."""
    report = accepted(REQUEST)
    return Job(
        job_id=str(uuid.uuid4()),
        kind="evaluate",
        kernels={"candidate": SubmittedKernel(KernelType.TORCH, {})},
        created_at=STARTED,
        state=JobState.COMPLETED,
        client="alice",
        started_at=STARTED + 1,
        acquired_at=STARTED + 2,
        finished_at=STARTED + 3.25,
        device=0,
        device_name="cuda:0",
        verdict=report.verdict,
        report=report,
        attempts=1,
    )


def sent(collector: Collector, job: Job) -> tuple[dict[str, Span], dict[str, Any]]:
    tracer = JobTracer(collector.url, server="pod", version="1.2.3")
    tracer.ended(job)
    tracer.close()
    return collector.spans()


def test_a_trace_has_the_queue_and_every_phase_at_its_time(collector: Collector) -> None:
    job = ended()
    spans, resource = sent(collector, job)
    assert {name: times(span) for name, span in spans.items()} == {
        "evaluate": (0, 3.25),
        "queue": (0, 1),
        "read": (1, 1.1),
        "build": (1.1, 1.3),
        "wait for device": (1.3, 2),
        "load": (2, 2.3),
        "check": (2.3, 2.7),
        "profile": (2.7, 3.2),
    }
    whole = spans.pop("evaluate")
    assert whole.trace_id.hex() == job.job_id.replace("-", "")
    assert not whole.parent_span_id
    for span in spans.values():
        assert span.trace_id == whole.trace_id
        assert span.parent_span_id == whole.span_id
    told = attributes(whole)
    assert told["job.id"] == job.job_id
    assert told["job.verdict"] == "accepted"
    assert told["job.client"] == "alice"
    assert told["device.name"] == "cuda:0"
    assert told["kernel.candidate.type"] == "torch"
    assert told["kernel.candidate.mean_ms"] == pytest.approx(1.23456)
    assert attributes(spans["check"]) == {"check.trials": 2, "check.passed": 2}
    assert resource["service.name"] == "kerneljudge"
    assert resource["service.instance.id"] == "pod"
    assert resource["service.version"] == "1.2.3"


def test_the_phase_that_failed_says_how(collector: Collector) -> None:
    report = failed(REQUEST, FaultKind.TIMEOUT, Phase.CHECK)
    job = replace(
        ended(), state=JobState.FAILED, verdict=report.verdict, report=report, error="out of time"
    )
    spans, _ = sent(collector, job)
    assert attributes(spans["check"])["fault.kind"] == "timeout"
    whole = spans["evaluate"]
    assert attributes(whole)["fault.phase"] == "check"
    assert (whole.status.code, whole.status.message) == (Status.STATUS_CODE_ERROR, "out of time")


def test_a_job_that_never_began_has_waited_and_nothing_else(collector: Collector) -> None:
    job = replace(
        ended(),
        state=JobState.CANCELLED,
        started_at=None,
        acquired_at=None,
        verdict=None,
        report=None,
        device_name=None,
    )
    spans, _ = sent(collector, job)
    assert {name: times(span) for name, span in spans.items()} == {
        "evaluate": (0, 3.25),
        "queue": (0, 3.25),
    }
    assert "job.verdict" not in attributes(spans["evaluate"])


def test_jobs_have_a_trace_each(collector: Collector) -> None:
    jobs = [ended(), ended()]
    tracer = JobTracer(collector.url + "/", server="pod", version="1")
    for job in jobs:
        tracer.ended(job)
    tracer.close()
    _, message = collector.received.get(timeout=30)
    ids = {
        span.trace_id.hex()
        for scope in message.resource_spans[0].scope_spans
        for span in scope.spans
    }
    assert ids == {job.job_id.replace("-", "") for job in jobs}


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ServiceError, match=r"extra `trace`.*kerneljudge\[server,trace\]"):
        JobTracer("http://localhost:4318", server="pod", version="1")


def test_a_server_without_traces_imports_nothing_of_them() -> None:
    code = (
        "import sys, kerneljudge.service.tracing;"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.e2e
def test_a_real_server_traces_its_jobs_and_names_them_in_every_line_about_them(
    collector: Collector, start_server: Callable[..., Any]
) -> None:
    server = start_server(
        "cpu", KERNELJUDGE_TRACE_ENDPOINT=collector.url, KERNELJUDGE_LOG_FORMAT="json"
    )
    body = {"kernel": pairs.kernel(pairs.REFERENCE), "num_trials": 10}
    answer = httpx.post(f"{server.url}/evaluate", json=body, timeout=120, trust_env=False)
    judged = answer.json()
    job_id = judged["job_id"]
    httpx.get(f"{server.url}/job/{job_id}", trust_env=False)
    httpx.get(f"{server.url}/health", trust_env=False)

    spans, _ = collector.spans()
    whole = spans["evaluate"]
    assert whole.trace_id.hex() == job_id.replace("-", "")
    assert attributes(whole)["job.verdict"] == judged["verdict"] == "accepted"
    for phase, seconds in judged["phase_seconds"].items():
        took = (spans[phase].end_time_unix_nano - spans[phase].start_time_unix_nano) / 1e9
        assert took == pytest.approx(seconds, abs=1e-5)
        assert whole.start_time_unix_nano <= spans[phase].start_time_unix_nano
        assert spans[phase].end_time_unix_nano <= whole.end_time_unix_nano + 50_000_000

    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    of_job = [line for line in lines if line.get("job_id") == job_id]
    assert {line["logger"] for line in of_job} >= {
        "kerneljudge.service.jobs",
        "kerneljudge.service.dispatcher",
    }
    access = {line["path"]: line for line in lines if line["logger"] == "uvicorn.access"}
    assert access["/evaluate"]["job_id"] == job_id
    assert access[f"/job/{job_id}"]["job_id"] == job_id
    assert "job_id" not in access["/health"]
    # No line speaks of a job without naming it.
    assert all(line.get("job_id") for line in lines if job_id in line["message"])
