"""How jobs are submitted: waiting or not, once or again, one or many."""

from __future__ import annotations

import asyncio
import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from applications import application, client_of
from listening import listening
from scripted import ScriptedEvaluator, accepted, failed

from kerneljudge.api import BatchResponse, CancelledResponse, JobResponse
from kerneljudge.schema import CompareRequest, EvaluateRequest, FaultKind, JobReport, Phase

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL: dict[str, Any] = {"source_code": "def f(x): return x", "kernel_type": "torch"}
EVALUATE: dict[str, Any] = {"kernel": KERNEL}
COMPARE: dict[str, Any] = {"ref_kernel": KERNEL, "custom_kernel": KERNEL}
LEGACY: dict[str, Any] = {"ref_code": "r", "custom_code": "c"}


def held() -> ScriptedEvaluator:
    """An evaluator whose jobs wait in their first phase for one `step`."""
    return ScriptedEvaluator(steps=(Phase.BUILD,))


@pytest.mark.parametrize("path", ["/evaluate", "/compare", "/"])
@pytest.mark.parametrize(
    ("query", "headers", "applied"),
    [
        ("?wait=false", {}, None),
        ("", {"Prefer": "respond-async"}, "respond-async"),
        ("", {"Prefer": "return=minimal, Respond-Async; x=1"}, "respond-async"),
        ("?wait=false", {"Prefer": "respond-async"}, None),
    ],
)
async def test_a_post_that_does_not_wait_says_where_its_job_is(
    path: str, query: str, headers: dict[str, str], applied: str | None
) -> None:
    evaluator = held()
    async with application(evaluator) as (app, _), client_of(app) as client:
        body = EVALUATE if path == "/evaluate" else COMPARE
        answer = await client.post(path + query, json=body, headers=headers)
        assert answer.status_code == 202
        assert answer.headers.get("preference-applied") == applied
        job = JobResponse.model_validate(answer.json())
        assert answer.headers["location"] == f"/job/{job.job_id}"
        assert not job.finished_at
        assert job.result is None
        evaluator.step()
        ended = (await client.get(f"{answer.headers['location']}?wait=60")).json()
    assert ended["status"] == "completed"


async def test_wait_true_outweighs_the_preference() -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        answer = await client.post(
            "/evaluate?wait=true", json=EVALUATE, headers={"Prefer": "respond-async"}
        )
    assert answer.status_code == 200
    assert answer.json()["verdict"] == "accepted"
    assert "preference-applied" not in answer.headers


async def test_priority_deadline_and_share_are_the_jobs() -> None:
    async with application(held()) as (app, _), client_of(app) as client:
        answer = await client.post(
            "/evaluate?wait=false&priority=-3&deadline=90.5",
            json=EVALUATE,
            headers={"X-KernelJudge-Client": "team a"},
        )
        job = answer.json()
    assert (job["priority"], job["client"]) == (-3, "team a")
    assert job["deadline_at"] == pytest.approx(job["created_at"] + 90.5)


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("?priority=11", {}, "query -> priority"),
        ("?priority=x", {}, "query -> priority"),
        ("?deadline=0", {}, "query -> deadline"),
        ("?deadline=nan", {}, "query -> deadline"),
        ("?deadline=4000", {}, "query -> deadline"),
        ("?wait=perhaps", {}, "query -> wait"),
        ("", {"Idempotency-Key": "a b"}, "header -> Idempotency-Key"),
        ("", {"Idempotency-Key": "a" * 256}, "header -> Idempotency-Key"),
        ("", {"Idempotency-Key": ""}, "header -> Idempotency-Key"),
    ],
)
async def test_a_malformed_parameter_is_a_400_that_names_it(
    query: str, headers: dict[str, str], field: str
) -> None:
    evaluator = ScriptedEvaluator()
    async with application(evaluator) as (app, _), client_of(app) as client:
        for path, body in (("/evaluate", EVALUATE), ("/batch", {"requests": [EVALUATE]})):
            answer = await client.post(path + query, json=body, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["status"] == "client_error"
            assert [issue["field"] for issue in answer.json()["validation_errors"]] == [field]
    assert not evaluator.requests


async def test_unknown_parameters_are_ignored() -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        assert (await client.post("/evaluate?colour=red", json=EVALUATE)).status_code == 200


# --- idempotency


async def test_the_same_key_is_the_same_job() -> None:
    evaluator = held()
    key = {"Idempotency-Key": "once"}
    async with application(evaluator) as (app, _), client_of(app) as client:
        first = await client.post("/evaluate?wait=false", json=EVALUATE, headers=key)
        again = await client.post("/evaluate?wait=false", json=EVALUATE, headers=key)
        assert "idempotent-replayed" not in first.headers
        assert again.status_code == 202
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["job_id"] == first.json()["job_id"]
        waiting = asyncio.create_task(client.post("/evaluate", json=EVALUATE, headers=key))
        evaluator.step()
        ended = await waiting
        stored = await client.post("/evaluate", json=EVALUATE, headers=key)
    assert ended.status_code == 200
    assert ended.json()["job_id"] == first.json()["job_id"]
    assert stored.json() == ended.json()
    assert stored.headers["idempotent-replayed"] == "true"
    assert len(evaluator.requests) == 1


async def test_a_failed_job_is_replayed_as_such() -> None:
    def script(request: EvaluateRequest | CompareRequest) -> JobReport:
        return failed(request, FaultKind.TIMEOUT, Phase.CHECK)

    key = {"Idempotency-Key": "once"}
    async with application(ScriptedEvaluator(script)) as (app, _), client_of(app) as client:
        first = await client.post("/evaluate", json=EVALUATE, headers=key)
        again = await client.post("/evaluate", json=EVALUATE, headers=key)
    assert first.status_code == again.status_code == 500
    assert again.json() == first.json()


async def test_the_same_key_with_another_request_is_a_conflict() -> None:
    key = {"Idempotency-Key": "once"}
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        await client.post("/evaluate", json=EVALUATE, headers=key)
        answer = await client.post("/evaluate", json={**EVALUATE, "seed": 3}, headers=key)
        other_client = await client.post(
            "/evaluate",
            json={**EVALUATE, "seed": 3},
            headers={**key, "X-KernelJudge-Client": "another"},
        )
    assert answer.status_code == 409
    assert answer.json()["status"] == "error"
    assert "'once'" in answer.json()["error"]
    assert other_client.status_code == 200


# --- batches


async def test_a_batch_answers_each_request_in_order_as_its_post_would() -> None:
    def script(request: EvaluateRequest | CompareRequest) -> JobReport:
        if request.seed == 1:
            return failed(request, FaultKind.TIMEOUT, Phase.CHECK)
        return accepted(request)

    bodies = [EVALUATE, COMPARE, {**EVALUATE, "seed": 1}, LEGACY]
    async with application(ScriptedEvaluator(script)) as (app, _), client_of(app) as client:
        answer = await client.post("/batch", json={"requests": bodies})
        assert answer.status_code == 200
        assert BatchResponse.model_validate(answer.json())
        results = answer.json()["results"]
        for result in results:
            job = (await client.get(f"/job/{result['body']['job_id']}")).json()
            assert job["result"] == result["body"]
    assert [result["status_code"] for result in results] == [200, 200, 500, 200]
    assert [result["body"]["status"] for result in results] == ["success"] * 2 + [
        "error",
        "success",
    ]
    assert ["ref_runtime" in result["body"] for result in results] == [False, True, False, True]


async def test_a_batch_runs_in_parallel_and_need_not_be_waited_for() -> None:
    evaluator = held()
    async with application(evaluator) as (app, service), client_of(app) as client:
        answer = await client.post("/batch?wait=false", json={"requests": [EVALUATE] * 5})
        assert answer.status_code == 202
        jobs = [JobResponse.model_validate(job) for job in answer.json()["jobs"]]
        assert len({job.job_id for job in jobs}) == 5
        # All of them are in their first phase before any goes on.
        for job in jobs:
            async for event in service.events(job.job_id):
                if event.phase is Phase.BUILD:
                    break
        assert evaluator.running == 5
        evaluator.step(5)
        for job in jobs:
            assert (await service.wait(job.job_id)).state == "completed"


async def test_one_malformed_request_refuses_the_whole_batch() -> None:
    evaluator = ScriptedEvaluator()
    wrong = [
        EVALUATE,
        {"kernel": {**KERNEL, "kernel_type": "triton"}},
        {"ref_kernel": KERNEL},
        {"kernel": {**KERNEL, "metadata": {"mode": "x"}}},
        {"ref_code": "x", "custom_code": "y", "atol": 1},
        7,
    ]
    async with application(evaluator) as (app, _), client_of(app) as client:
        answer = await client.post("/batch", json={"requests": wrong})
        listed = (await client.get("/jobs")).json()["jobs"]
    assert answer.status_code == 400
    assert [issue["field"] for issue in answer.json()["validation_errors"]] == [
        "body -> requests -> 1 -> kernel",
        "body -> requests -> 2 -> custom_kernel",
        "body -> requests -> 3 -> kernel -> metadata -> mode",
        "body -> requests -> 4 -> atol",
        "body -> requests -> 5",
    ]
    assert not listed
    assert not evaluator.requests


@pytest.mark.parametrize("body", [{"requests": []}, {}, {"requests": [EVALUATE], "x": 1}, []])
async def test_a_malformed_batch_is_a_400(body: Any) -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        answer = await client.post("/batch", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid request format"


async def test_a_batch_repeated_with_its_key_is_the_same_jobs() -> None:
    evaluator = ScriptedEvaluator()
    key = {"Idempotency-Key": "batch"}
    async with application(evaluator) as (app, _), client_of(app) as client:
        first = await client.post("/batch", json={"requests": [EVALUATE, COMPARE]}, headers=key)
        again = await client.post("/batch", json={"requests": [EVALUATE, COMPARE]}, headers=key)
        other = await client.post("/batch", json={"requests": [COMPARE, EVALUATE]}, headers=key)
        longer = await client.post(
            "/batch", json={"requests": [EVALUATE, COMPARE, EVALUATE]}, headers=key
        )
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 409
    assert longer.json()["results"][:2] == first.json()["results"]
    assert "idempotent-replayed" not in longer.headers
    assert len(evaluator.requests) == 3


# --- clients that go away


def hang_up_while_waiting(url: str, path: str, body: Any, headers: dict[str, str]) -> str:
    """Posts, hangs up once the job runs, and waits until the server has noticed: the job's id."""
    address = urlsplit(url)
    connection = HTTPConnection(str(address.hostname), address.port)
    connection.request("POST", path, json.dumps(body), headers)
    with httpx.Client(base_url=url, trust_env=False) as client:
        jobs: list[dict[str, Any]] = []
        while not jobs:
            jobs = client.get("/jobs?status=compiling").json()["jobs"]
        connection.close()
        while 'status="499"' not in client.get("/metrics").text:
            pass
    return str(jobs[0]["job_id"])


@pytest.mark.parametrize(
    ("path", "body"), [("/evaluate", EVALUATE), ("/batch", {"requests": [COMPARE]})]
)
def test_a_client_that_hangs_up_cancels_its_job(path: str, body: Any) -> None:
    evaluator = held()
    with listening(evaluator) as url:
        job_id = hang_up_while_waiting(url, path, body, {})
        job = httpx.get(f"{url}/job/{job_id}?wait=60", timeout=70, trust_env=False).json()
    assert job["status"] == "cancelled"
    assert "went away" in job["error"]
    assert isinstance(JobResponse.model_validate(job).result, CancelledResponse)
    assert evaluator.cancelled == [job_id]


def test_no_job_begins_of_a_batch_whose_client_has_hung_up() -> None:
    evaluator = held()
    evaluator.capacity = 1
    with listening(evaluator) as url:
        job_id = hang_up_while_waiting(url, "/batch", {"requests": [EVALUATE] * 5}, {})
        jobs = httpx.get(f"{url}/jobs", trust_env=False).json()["jobs"]
    assert [job["status"] for job in jobs] == ["cancelled"] * 5
    assert [judged_id for judged_id, _ in evaluator.judged] == [job_id]


def test_a_client_with_a_key_may_hang_up_and_come_back() -> None:
    evaluator = held()
    key = {"Idempotency-Key": "later"}
    with listening(evaluator) as url:
        job_id = hang_up_while_waiting(url, "/evaluate", EVALUATE, key)
        evaluator.step()
        answer = httpx.post(f"{url}/evaluate", json=EVALUATE, headers=key, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["job_id"] == job_id
    assert answer.headers["idempotent-replayed"] == "true"
    assert not evaluator.cancelled


# --- servers that do not take it


async def test_a_full_queue_is_a_429_with_a_time_to_come_back() -> None:
    evaluator = ScriptedEvaluator(ready=False)
    async with application(evaluator, max_queued=2) as (app, _), client_of(app) as client:
        for _ in range(2):
            await client.post("/evaluate?wait=false", json=EVALUATE)
        for path, body in (("/evaluate", EVALUATE), ("/batch", {"requests": [EVALUATE]})):
            answer = await client.post(path, json=body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["status"] == "error"
        listed = (await client.get("/jobs")).json()["jobs"]
    assert len(listed) == 2


async def test_a_batch_larger_than_the_queue_is_not_taken_in_part() -> None:
    evaluator = ScriptedEvaluator(ready=False)
    async with application(evaluator, max_queued=2) as (app, _), client_of(app) as client:
        answer = await client.post("/batch", json={"requests": [EVALUATE] * 3})
        listed = (await client.get("/jobs")).json()["jobs"]
    assert answer.status_code == 429
    assert not listed


async def test_a_server_that_stops_takes_no_jobs_and_releases_who_waits() -> None:
    evaluator = ScriptedEvaluator(ready=False)
    async with application(evaluator) as (app, service), client_of(app) as client:
        accepted_job = await client.post(
            "/evaluate?wait=false", json=EVALUATE, headers={"Idempotency-Key": "a"}
        )
        job_id = accepted_job.json()["job_id"]
        waiting = asyncio.create_task(
            client.post("/evaluate", json=EVALUATE, headers={"Idempotency-Key": "a"})
        )
        polling = asyncio.create_task(client.get(f"/job/{job_id}?wait=60"))
        await asyncio.sleep(0)
        await service.stop()
        released = await waiting
        polled = await polling
        refused = await client.post("/evaluate", json=EVALUATE)
        ready = await client.get("/health/ready")
        health = await client.get("/health")
        live = await client.get("/health/live")
    assert released.status_code == 503
    assert released.json()["job_id"] == job_id
    assert released.headers["location"] == f"/job/{job_id}"
    assert int(released.headers["retry-after"]) >= 1
    assert polled.status_code == 200
    assert polled.json()["status"] == "queued"
    assert refused.status_code == 503
    assert refused.json()["status"] == "error"
    assert int(refused.headers["retry-after"]) >= 1
    assert "job_id" not in refused.json()
    assert ready.status_code == 503
    assert ready.json()["status"] == "unready"
    assert health.status_code == 500
    assert health.json()["draining"] is True
    assert live.status_code == 200
