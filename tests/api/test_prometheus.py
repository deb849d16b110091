"""`/metrics` is what Prometheus reads, and counts what really happened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from applications import application, client_of
from memory_keys import MemoryKeys, api_key
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from scripted import ScriptedEvaluator, accepted, failed, side

from kerneljudge.schema import EvaluateRequest, FaultKind, JobReport, JobRequest, KernelCode, Phase
from kerneljudge.service import JobService, JobState
from kerneljudge.service.access import Scope
from kerneljudge.service.records import Submission

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@asynccontextmanager
async def serving(
    evaluator: ScriptedEvaluator | None = None, keys: MemoryKeys | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, JobService]]:
    async with (
        application(evaluator or ScriptedEvaluator(), keys) as (app, service),
        client_of(app) as client,
    ):
        yield client, service


def submission(source: str = "x = 1", **fields: Any) -> Submission:
    kernel = KernelCode.model_validate({"source_code": source, "kernel_type": "torch"})
    return Submission(EvaluateRequest(kernel=kernel), **fields)


async def scraped(client: httpx.AsyncClient, **headers: str) -> Samples:
    """Every sample by its name and labels."""
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"kerneljudge_{name}", tuple(sorted(labels.items()))]


def script(request: JobRequest) -> JobReport:
    """By the source: accepted with a build, or crashed, or out of time."""
    assert isinstance(request, EvaluateRequest)
    kind = request.kernel.source_code
    if kind == "crash":
        return failed(request, FaultKind.CRASHED, Phase.CHECK)
    if kind == "hang":
        return failed(request, FaultKind.TIMEOUT, Phase.PROFILE)
    built = side(way="nvrtc", cached=kind == "cached", seconds=0.25)
    return accepted(request).model_copy(update={"candidate": built})


async def test_counters_are_what_the_jobs_did() -> None:
    async with serving(ScriptedEvaluator(script)) as (client, service):
        before = await scraped(client)
        for source in ("built", "cached", "cached", "crash", "hang"):
            job = await service.submit(submission(source))
            await service.wait(job.job_id)
        after = await scraped(client)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("jobs_submitted_total") == 5
    assert grown("jobs_ended_total", state="completed") == 4
    assert grown("jobs_ended_total", state="failed") == 1
    assert grown("jobs_ended_total", state="cancelled") == 0
    assert grown("verdicts_total", verdict="accepted") == 3
    assert grown("verdicts_total", verdict="crashed") == 1
    assert grown("verdicts_total", verdict="timeout") == 1
    assert grown("build_cache_lookups_total", result="hit") == 2
    assert grown("build_cache_lookups_total", result="miss") == 1
    assert grown("build_seconds_total") == 0.75
    assert grown("compilations_total", result="successful") == 5
    assert grown("correctness_checks_total", result="failed") == 1
    assert value(after, "jobs", state="completed") == 4
    assert value(after, "jobs", state="failed") == 1
    assert value(after, "jobs_waiting") == value(after, "jobs_running") == 0


async def test_histograms_have_every_phase_in_cumulative_buckets() -> None:
    async with serving() as (client, service):
        for _ in range(3):
            job = await service.submit(submission())
            await service.wait(job.job_id)
        samples = await scraped(client)
    # As the script's reports have it: build 0.2 s, profile 0.5 s.
    assert value(samples, "phase_duration_seconds_count", phase="build") == 3
    assert value(samples, "phase_duration_seconds_sum", phase="build") == pytest.approx(0.6)
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples.items()
        if name == "kerneljudge_phase_duration_seconds_bucket" and ("phase", "profile") in labels
    }
    assert [buckets[bound] for bound in (0.25, 0.5, 1, float("inf"))] == [0, 3, 3, 3]
    assert sorted(buckets.values()) == [buckets[bound] for bound in sorted(buckets)]
    assert value(samples, "job_duration_seconds_count") == 3


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc",
        "text/plain; version=x.y.z; escaping=allow-utf-8",
        f"text/plain; version=1.{'9' * 5000}",
        "text/plain; version",
    ],
    ids=lambda accept: accept[:50],
)
async def test_a_version_that_is_none_gets_the_text_that_all_read(accept: str) -> None:
    async with serving(ScriptedEvaluator()) as (client, _):
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_waits_and_devices_are_counted_of_jobs_that_had_one() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.LOAD,))
    async with serving(evaluator) as (client, service):
        job = await service.submit(submission())
        async for event in service.events(job.job_id):
            if event.phase is Phase.LOAD:
                break
        running = await scraped(client)
        evaluator.step()
        await service.wait(job.job_id)
        ended = await scraped(client)
    assert value(running, "jobs_running") == 1
    assert value(running, "device_running_jobs", device="cpu") == 1
    assert value(ended, "device_running_jobs", device="cpu") == 0
    assert value(ended, "device_judged_jobs_total", device="cpu") == 1
    # Load, check and profile, as the script has them.
    assert value(ended, "device_busy_seconds_total", device="cpu") == pytest.approx(1.2)
    assert value(ended, "queue_wait_seconds_count") == 1
    assert value(ended, "device_ready", device="cpu") == 1
    assert value(ended, "device_health", device="cpu", health="ready") == 1
    assert value(ended, "device_health", device="cpu", health="quarantined") == 0


async def test_clients_beyond_the_first_twenty_are_counted_together() -> None:
    async with serving(ScriptedEvaluator(ready=False)) as (client, service):
        for number in range(30):
            for _ in range(2 if number < 20 else 1):
                await service.submit(submission(client=f"client {number}"))
        samples = await scraped(client)
    lengths = {
        dict(labels)["client"]: length
        for (name, labels), length in samples.items()
        if name == "kerneljudge_queue_length"
    }
    assert lengths == {**{f"client {number}": 2 for number in range(20)}, "other": 10}
    assert value(samples, "jobs_waiting") == 50


async def test_a_key_learns_of_no_other_client_and_an_admin_of_all() -> None:
    keys = MemoryKeys(api_key("alice"), api_key("root", Scope.ADMIN))
    async with serving(ScriptedEvaluator(ready=False), keys) as (client, service):
        for name in ("key_alice", "key_bob"):
            await service.submit(submission(client=name, key_id=name))
        assert (await client.get("/metrics")).status_code == 401
        seen = await scraped(client, Authorization="Bearer secret-alice")
        assert value(seen, "queue_length", client="key_alice") == 1
        assert value(seen, "queue_length", client="other") == 1
        assert not any(("client", "key_bob") in labels for _, labels in seen)
        seen = await scraped(client, Authorization="Bearer secret-root")
        assert value(seen, "queue_length", client="key_bob") == 1


async def test_requests_are_counted_by_route_and_never_by_address() -> None:
    async with serving() as (client, service):
        job = await service.submit(submission())
        await service.wait(job.job_id)
        for path in (f"/job/{job.job_id}", f"/job/{job.job_id}", "/nothing/here", "/job/x"):
            await client.get(path)
        await client.request("BREW", "/health")
        samples = await scraped(client)
    name = "http_requests_total"
    assert value(samples, name, method="GET", route="/job/{job_id}", status="200") == 2
    assert value(samples, name, method="GET", route="unmatched", status="404") == 1
    assert not any(job.job_id in str(labels) for _, labels in samples)
    assert not any("BREW" in str(labels) for _, labels in samples)
    duration = "http_request_duration_seconds_count"
    assert value(samples, duration, method="GET", route="/job/{job_id}") == 3
    assert value(samples, "http_requests_in_progress") == 1


async def test_open_metrics_are_spoken_to_whom_asks_for_them() -> None:
    async with serving() as (client, _):
        answer = await client.get(
            "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        )
        plain = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {
        family.name: family
        for family in openmetrics_parser.text_string_to_metric_families(answer.text)
    }
    assert families["kerneljudge_jobs_submitted"].type == "counter"
    assert "process_resident_memory_bytes" in families
    assert plain.headers["content-type"].startswith("text/plain")


async def test_cancelled_jobs_are_counted_as_such() -> None:
    async with serving(ScriptedEvaluator(ready=False)) as (client, service):
        job = await service.submit(submission())
        cancelled = await service.cancel(job.job_id)
        assert cancelled is not None
        assert cancelled.state is JobState.CANCELLED
        samples = await scraped(client)
    assert value(samples, "jobs_ended_total", state="cancelled") == 1
    assert value(samples, "jobs_ended_total", state="completed") == 0
