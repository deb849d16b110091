"""`/metrics`: what the server did and does, as Prometheus reads it.

What concerns jobs is kept by the service and only written down here; what concerns HTTP is counted
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

import kerneljudge
from kerneljudge.api.access import Access
from kerneljudge.api.openapi import answers
from kerneljudge.schema import Phase, Verdict
from kerneljudge.service import DeviceState, JobService
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.evaluator import DeviceHealth
from kerneljudge.service.metrics import Times
from kerneljudge.service.records import JobState

__all__ = ["add_metrics"]

_MOST_CLIENTS: Final = 20
_OTHERS: Final = "other"
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


def add_metrics(app: FastAPI, service: JobService, access: Access) -> None:
    """Adds `/metrics`, and counts the application's requests."""
    # Twice the lines, and of no use here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    jobs = _Jobs()
    registry.register(jobs)
    app.add_middleware(_Requests, registry=registry)
    may_read = Depends(access.require(Scope.READ))

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {}}, "description": "Text exposition format"},
            **answers(401, 403, 429, 503),
        },
        tags=["server"],
    )
    async def metrics(request: Request, caller: Caller = may_read) -> Response:
        """Jobs, verdicts, queue, phases, builds, devices, HTTP requests, and the process."""
        stats = await service.stats()
        encode, content_type = _format(request.headers.get("accept", ""))
        jobs.families = list(_families(service, stats, caller))
        return Response(encode(registry), headers={"Content-Type": content_type})


def _format(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """How to write the metrics, and the media type of that."""
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no number, on which the library fails: the text that everyone reads.
        return choose_encoder("")


class _Jobs(Collector):
    """Hands over what was put together of the service just before."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        return self.families


class _Requests:
    """Counts and times requests by route, of which there are few, and never by address."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._total = Counter(
            "kerneljudge_http_requests",
            "HTTP requests that were answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "kerneljudge_http_request_duration_seconds",
            "From a request's head to the end of its answer; a POST that waits, waits for its job.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._open = Gauge(
            "kerneljudge_http_requests_in_progress",
            "HTTP requests that are being answered.",
            registry=registry,
        )

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what the server answers where the application fails before it has begun

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            with self._open.track_inprogress():
                await self._app(scope, receive, note)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _OTHERS
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            self._total.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


def _families(service: JobService, stats: Mapping[str, Any], caller: Caller) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "kerneljudge_build", "What is running.", {"version": kerneljudge.__version__}
    )
    yield from _of_jobs(service, stats)
    yield from _of_queue(service.queue(), caller)
    yield from _of_work(stats)
    yield from _of_devices(service.devices(), stats["gpu_utilization"]["utilization_by_gpu"])


def _of_jobs(service: JobService, stats: Mapping[str, Any]) -> Iterator[Metric]:
    stored = stats["job_stats"]["by_status"]
    yield _gauge(
        "jobs",
        "Jobs in the database, which other servers may share, by state.",
        {state.value: stored.get(state.value, 0) for state in JobState},
        "state",
    )
    throughput = stats["throughput"]
    yield _counter("jobs_submitted", "Jobs that were accepted.", throughput["total_requests"])
    yield _counter(
        "jobs_ended",
        "Jobs that ended here, by their last state.",
        {
            JobState.COMPLETED.value: throughput["completed_requests"],
            JobState.FAILED.value: throughput["failed_requests"],
            JobState.CANCELLED.value: throughput["cancelled_requests"],
        },
        "state",
    )
    yield _counter(
        "jobs_requeued",
        "Times that a job that had been begun was put back into the queue.",
        throughput["requeued_requests"],
    )
    yield _counter(
        "jobs_resumed",
        "Times that a job that had been begun before was taken up again.",
        throughput["resumed_requests"],
    )
    yield _counter(
        "verdicts",
        "Verdicts that were given.",
        {verdict.value: stats["verdicts"].get(verdict.value, 0) for verdict in Verdict},
        "verdict",
    )
    metrics = service.metrics
    yield _histogram("job_duration", "From submission to the end.", {"": metrics.end_to_end})
    yield _histogram(
        "queue_wait",
        "What a job waited for its device, without its own first phases.",
        {"": metrics.waits},
    )
    yield _histogram(
        "phase_duration",
        "What a phase took, both kernels together.",
        {phase.value: metrics.phases.get(phase, Times()) for phase in Phase if phase != "done"},
        "phase",
    )


def _of_queue(queue: Mapping[str, Any], caller: Caller) -> Iterator[Metric]:
    yield _gauge("jobs_waiting", "Jobs that wait, as far as this server knows.", queue["waiting"])
    yield _gauge("jobs_running", "Jobs that run here.", queue["running"])
    yield _gauge(
        "queue_length",
        "Jobs that wait, by client; of the clients with the most, and of all others together.",
        _by_client(queue["clients"], caller),
        "client",
    )
    builders = queue["builders"]
    yield _gauge("builders", "Builds that may run at once.", builders["size"])
    yield _gauge("builders_busy", "Builds that run.", builders["busy"])
    yield _gauge("builds_waiting", "Builds that wait for a builder.", builders["waiting"])


def _by_client(clients: Mapping[str, Mapping[str, float]], caller: Caller) -> dict[str, float]:
    """How many jobs of each client wait. Whoever sees only their own jobs learns no other name."""
    visible = [
        (share["waiting"], name)
        for name, share in clients.items()
        if caller.sees is None or name == caller.client
    ]
    shown = {name: waiting for waiting, name in sorted(visible, reverse=True)[:_MOST_CLIENTS]}
    rest = sum(share["waiting"] for name, share in clients.items() if name not in shown)
    # A client may have this name too.
    return {**shown, _OTHERS: shown.get(_OTHERS, 0) + rest}


def _of_work(stats: Mapping[str, Any]) -> Iterator[Metric]:
    compiled, profiled = stats["compilation_metrics"], stats["profiling_metrics"]
    yield _counter(
        "compilations",
        "Kernels that were compiled, or were not to be.",
        {
            "successful": compiled["successful_compilations"],
            "failed": compiled["failed_compilations"],
        },
        "result",
    )
    yield _counter(
        "build_cache_lookups",
        "Kernels whose build the cache had, and those that were built.",
        {"hit": compiled["cache_hits"], "miss": compiled["cache_misses"]},
        "result",
    )
    yield _counter(
        "build_seconds", "Time spent waiting for builds.", compiled["total_time_seconds"]
    )
    yield _counter(
        "correctness_checks",
        "Jobs that came to their correctness trials.",
        {"passed": profiled["correctness_passed"], "failed": profiled["correctness_failed"]},
        "result",
    )
    yield _counter(
        "profilings",
        "Jobs that were timed.",
        {
            "successful": profiled["successful_profilings"],
            "failed": profiled["failed_profilings"],
        },
        "result",
    )
    yield _counter(
        "graph_captures",
        "Kernels on a GPU that could be captured as a CUDA graph, and those that could not.",
        {"captured": profiled["graph_captures"], "fallback": profiled["graph_fallbacks"]},
        "result",
    )


def _of_devices(
    devices: list[DeviceState], used: Mapping[str, Mapping[str, float]]
) -> Iterator[Metric]:
    yield _gauge(
        "device_ready",
        "Whether a device takes jobs.",
        {device.name: int(device.ready) for device in devices},
        "device",
    )
    health = GaugeMetricFamily(
        "kerneljudge_device_health", "1 for what a device is now.", labels=("device", "health")
    )
    about = InfoMetricFamily("kerneljudge_device", "What a device is.", labels=("device",))
    for device in devices:
        for value in DeviceHealth:
            health.add_metric((device.name, value.value), int(device.health is value))
        if device.environment is not None:
            told = {
                "model": device.environment.device_name,
                "architecture": device.environment.architecture or "",
                "driver": device.environment.driver or "",
            }
            about.add_metric((device.name,), told)
    yield health
    yield about
    yield _gauge(
        "device_running_jobs",
        "Jobs on a device now.",
        {device.name: device.jobs for device in devices},
        "device",
    )
    yield _counter(
        "device_judged_jobs",
        "Jobs that had a device and let go of it.",
        {name: one["jobs"] for name, one in used.items()},
        "device",
    )
    yield _counter(
        "device_busy_seconds",
        "Time for which jobs used a device.",
        {name: one["busy_seconds"] for name, one in used.items()},
        "device",
    )


def _counter(
    name: str, text: str, values: float | Mapping[str, float], label: str = ""
) -> CounterMetricFamily:
    if not isinstance(values, Mapping):
        return CounterMetricFamily(f"kerneljudge_{name}", text, value=values)
    family = CounterMetricFamily(f"kerneljudge_{name}", text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _gauge(
    name: str, text: str, values: float | Mapping[str, float], label: str = ""
) -> GaugeMetricFamily:
    if not isinstance(values, Mapping):
        return GaugeMetricFamily(f"kerneljudge_{name}", text, value=values)
    family = GaugeMetricFamily(f"kerneljudge_{name}", text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _histogram(
    name: str, text: str, values: Mapping[str, Times], label: str | None = None
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        f"kerneljudge_{name}_seconds", text, labels=() if label is None else (label,)
    )
    for value, times in values.items():
        buckets = [
            ("+Inf" if bound == float("inf") else str(float(bound)), count)
            for bound, count in times.histogram()
        ]
        family.add_metric(() if label is None else (value,), buckets, times.total)
    return family
