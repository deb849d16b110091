"""Jobs that were submitted: one, its events, all of them, their end, and who sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from applications import application, client_of
from listening import listening
from memory_keys import MemoryKeys, api_key
from scripted import ScriptedEvaluator, accepted

from kerneljudge.api import CancelledResponse, JobEventResponse, JobListResponse, JobResponse
from kerneljudge.api import events as events_module
from kerneljudge.schema import Phase
from kerneljudge.service import Scope

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

KERNEL: dict[str, Any] = {"source_code": "def f(x): return x", "kernel_type": "torch"}
EVALUATE: dict[str, Any] = {"kernel": KERNEL}
COMPARE: dict[str, Any] = {"ref_kernel": KERNEL, "custom_kernel": KERNEL}


def held(*phases: Phase) -> ScriptedEvaluator:
    """An evaluator whose jobs wait in each phase for one `step`."""
    return ScriptedEvaluator(steps=phases or (Phase.BUILD,))


async def submitted(client: httpx.AsyncClient, body: Any = EVALUATE, **options: Any) -> str:
    path = "/evaluate" if "kernel" in body else "/compare"
    answer = await client.post(f"{path}?wait=false", json=body, **options)
    assert answer.status_code == 202
    return str(answer.json()["job_id"])


# --- one job


async def test_a_long_poll_ends_with_the_job_or_with_its_time() -> None:
    evaluator = held()
    async with application(evaluator) as (app, _), client_of(app) as client:
        job_id = await submitted(client)
        waited = (await client.get(f"/job/{job_id}?wait=0.01")).json()
        assert waited["finished_at"] is None
        polling = asyncio.create_task(client.get(f"/job/{job_id}?wait=60"))
        evaluator.step()
        ended = JobResponse.model_validate((await polling).json())
    assert ended.status == "completed"
    assert ended.attempts == 1
    assert ended.device == "cpu"
    assert ended.result is not None


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan"])
async def test_a_poll_is_bounded(wait: str) -> None:
    async with application(held()) as (app, _), client_of(app) as client:
        answer = await client.get(f"/job/{await submitted(client)}?wait={wait}")
    assert answer.status_code == 400
    assert answer.json()["validation_errors"][0]["field"] == "query -> wait"


@pytest.mark.parametrize("job_id", [str(uuid4()), "none", "%00", "a" * 5000, "%ff"])
async def test_what_is_no_job_is_a_404_everywhere(job_id: str) -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        for method, path in (("GET", ""), ("GET", "?wait=1"), ("GET", "/events"), ("DELETE", "")):
            answer = await client.request(method, f"/job/{job_id}{path}")
            assert answer.status_code == 404
            assert answer.json()["status"] == "error"


# --- cancelling


async def test_a_waiting_job_is_cancelled_and_its_post_is_answered() -> None:
    evaluator = ScriptedEvaluator(ready=False)
    async with application(evaluator) as (app, _), client_of(app) as client:
        waiting = asyncio.create_task(client.post("/evaluate", json=EVALUATE))
        jobs: list[dict[str, Any]] = []
        while not jobs:
            jobs = (await client.get("/jobs")).json()["jobs"]
        job_id = jobs[0]["job_id"]
        answer = await client.delete(f"/job/{job_id}")
        posted = await waiting
        again = await client.delete(f"/job/{job_id}")
    assert answer.status_code == again.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert posted.status_code == 409
    assert posted.json() == answer.json()["result"]
    told = CancelledResponse.model_validate(posted.json())
    assert (told.status, told.job_id) == ("cancelled", job_id)
    assert not evaluator.requests


async def test_a_running_job_is_cancelled_and_its_device_is_free() -> None:
    evaluator = held()
    async with application(evaluator) as (app, service), client_of(app) as client:
        job_id = await submitted(client)
        async for event in service.events(job_id):
            if event.phase is Phase.BUILD:
                break
        answer = await client.delete(f"/job/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert evaluator.running == 0
    assert evaluator.cancelled == [job_id]


async def test_a_job_whose_judge_does_not_let_go_yet_says_that_it_will_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kerneljudge.api.jobs._CANCEL_SECONDS", 0.01)
    evaluator = held()
    evaluator.lets_go.clear()
    async with application(evaluator) as (app, service), client_of(app) as client:
        job_id = await submitted(client)
        async for event in service.events(job_id):
            if event.phase is Phase.BUILD:
                break
        answer = await client.delete(f"/job/{job_id}")
        assert answer.status_code == 200
        assert answer.json()["status"] == "compiling"
        assert answer.json()["cancel_requested"] is True
        evaluator.lets_go.set()
        assert (await service.wait(job_id)).state == "cancelled"


async def test_a_job_with_a_verdict_cannot_be_cancelled() -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        job_id = (await client.post("/evaluate", json=EVALUATE)).json()["job_id"]
        answer = await client.delete(f"/job/{job_id}")
        job = (await client.get(f"/job/{job_id}")).json()
    assert answer.status_code == 409
    assert "completed" in answer.json()["error"]
    assert job["status"] == "completed"


# --- events


def read_events(response: httpx.Response) -> Iterator[tuple[str, str | None, Any]]:
    """The events of a stream, as they come: event, id, data. A comment is an event `:`."""
    event, number, data = "", None, ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            yield ":", None, value
        elif name == "event":
            event = value
        elif name == "id":
            number = value
        elif name == "data":
            data += value
        elif not line and event:
            yield event, number, json.loads(data)
            event, number, data = "", None, ""


def test_events_come_as_they_happen_and_end_with_the_result() -> None:
    evaluator = held(Phase.BUILD, Phase.CHECK, Phase.PROFILE)
    with (
        listening(evaluator) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        job_id = client.post("/compare?wait=false", json=COMPARE).json()["job_id"]
        seen: list[tuple[str, str | None, Any]] = []
        with client.stream("GET", f"/job/{job_id}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "no-store" in stream.headers["cache-control"]
            for event in read_events(stream):
                seen.append(event)
                if event[0] == "state" and event[2]["phase"] in ("build", "check", "profile"):
                    evaluator.step()
        job = client.get(f"/job/{job_id}").json()
        with client.stream(
            "GET", f"/job/{job_id}/events", headers={"Last-Event-ID": str(seen[2][1])}
        ) as stream:
            resumed = list(read_events(stream))
    *states, (last, last_id, result) = seen
    told = [JobEventResponse.model_validate(data) for _, _, data in states]
    assert [name for name, _, _ in states] == ["state"] * len(states)
    assert [int(number or 0) for _, number, _ in states] == list(range(1, len(states) + 1))
    assert [event.status for event in told] == [
        *("queued", "submitted", "compiling", "validating", "profiling", "completed")
    ]
    assert (last, last_id, result) == ("end", None, job)
    assert resumed == seen[3:]


def test_a_silent_stream_is_kept_alive_and_one_that_is_left_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_SECONDS", 0.01)
    evaluator = held()
    with (
        listening(evaluator) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        job_id = client.post("/evaluate?wait=false", json=EVALUATE).json()["job_id"]
        with client.stream("GET", f"/job/{job_id}/events") as stream:
            assert ":" in (event for event, _, _ in read_events(stream))
        # This request alone is left, though the job still runs.
        while "kerneljudge_http_requests_in_progress 1.0" not in client.get("/metrics").text:
            pass
        assert client.get(f"/job/{job_id}").json()["finished_at"] is None
        evaluator.step()
        assert client.get(f"/job/{job_id}?wait=60").json()["status"] == "completed"


@pytest.mark.parametrize("last", ["x", "-1", "9" * 30])
async def test_a_malformed_last_event_id_is_a_400(last: str) -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        job_id = await submitted(client)
        answer = await client.get(f"/job/{job_id}/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 400
    assert answer.json()["validation_errors"][0]["field"] == "header -> Last-Event-ID"


# --- listings


async def test_the_listing_is_newest_first_and_comes_in_pages() -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        ids = [await submitted(client, EVALUATE) for _ in range(5)]
        pages: list[list[str]] = []
        cursor = None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = JobListResponse.model_validate((await client.get("/jobs", params=query)).json())
            pages.append([job.job_id for job in page.jobs])
            cursor = page.next_cursor
            if cursor is None:
                break
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


async def test_the_listing_has_what_matches_every_filter() -> None:
    def script(request: Any) -> Any:
        if request.seed == 1:
            raise RuntimeError("no verdict")
        return accepted(request)

    async with application(ScriptedEvaluator(script)) as (app, service), client_of(app) as client:
        named = {"headers": {"X-KernelJudge-Client": "a"}}
        evaluated = await submitted(client, EVALUATE, **named)
        broken = await submitted(client, {**EVALUATE, "seed": 1})
        compared = await submitted(client, COMPARE)
        for job_id in (evaluated, broken, compared):
            await service.wait(job_id)
        created = (await client.get(f"/job/{broken}")).json()["created_at"]

        async def found(query: str) -> set[str]:
            answer = await client.get(f"/jobs?{query}")
            assert answer.status_code == 200, answer.text
            return {job["job_id"] for job in answer.json()["jobs"]}

        assert await found("status=completed") == {evaluated, compared}
        assert await found("status=failed&status=completed") == {evaluated, broken, compared}
        assert await found("kind=compare") == {compared}
        assert await found("verdict=accepted&kind=evaluate") == {evaluated}
        assert await found("client=a") == {evaluated}
        assert await found(f"created_after={created!r}") == {broken, compared}
        assert await found(f"created_before={created!r}") == {evaluated}
        assert await found("status=queued") == set()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query -> limit"),
        ("limit=501", "query -> limit"),
        ("status=done", "query -> status -> 0"),
        ("kind=x", "query -> kind"),
        ("verdict=x", "query -> verdict"),
        ("client=%00", "query -> client"),
        ("created_after=inf", "query -> created_after"),
        ("cursor=zzz", "query -> cursor"),
        ("cursor=%C3%A9", "query -> cursor"),
    ],
)
async def test_a_malformed_filter_is_a_400_that_names_it(query: str, field: str) -> None:
    async with application(ScriptedEvaluator()) as (app, _), client_of(app) as client:
        answer = await client.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert [issue["field"] for issue in answer.json()["validation_errors"]] == [field]


# --- keys


async def test_the_jobs_of_one_key_are_invisible_to_another() -> None:
    keys = MemoryKeys(
        api_key("mine", Scope.SUBMIT, Scope.READ),
        api_key("other", Scope.SUBMIT, Scope.READ),
        api_key("admin", Scope.ADMIN),
    )
    evaluator = ScriptedEvaluator(ready=False)
    async with application(evaluator, keys) as (app, _), client_of(app) as client:

        def by(name: str) -> dict[str, Any]:
            return {"headers": {"Authorization": f"Bearer secret-{name}"}}

        job_id = await submitted(client, **by("mine"))
        for name, visible in (("mine", True), ("other", False), ("admin", True)):
            for path in (f"/job/{job_id}", f"/job/{job_id}?wait=0.01"):
                answer = await client.get(path, **by(name))
                assert answer.status_code == (200 if visible else 404)
            listed = (await client.get("/jobs", **by(name))).json()["jobs"]
            assert len(listed) == visible
            stats = (await client.get("/stats", **by(name))).json()
            assert stats["job_stats"]["total_jobs"] == visible
            assert list(stats["queue"]["clients"]) == ["key_mine"] * visible
            health = (await client.get("/health", **by(name))).json()
            assert health["job_stats"]["total_jobs"] == visible
        assert (await client.get(f"/job/{job_id}/events", **by("other"))).status_code == 404
        assert (await client.delete(f"/job/{job_id}", **by("other"))).status_code == 404
        unknown = (await client.get("/health")).json()
        assert unknown["job_stats"]["total_jobs"] == 0
        assert (await client.get(f"/job/{job_id}")).status_code == 401
        assert (await client.post("/evaluate", json=EVALUATE)).status_code == 401
        assert (await client.post("/admin/cleanup-jobs", **by("mine"))).status_code == 403
        assert (await client.post("/admin/cleanup-jobs", **by("admin"))).status_code == 200
        assert (await client.delete(f"/job/{job_id}", **by("mine"))).status_code == 200


async def test_the_bounds_of_a_key_hold() -> None:
    bounded = api_key("mine", Scope.SUBMIT, max_priority=1, max_unfinished=1)
    mine = {"headers": {"X-API-Key": "secret-mine"}}
    evaluator = ScriptedEvaluator(ready=False)
    async with (
        application(evaluator, MemoryKeys(bounded)) as (app, _),
        client_of(app) as client,
    ):
        high = await client.post("/evaluate?wait=false&priority=2", json=EVALUATE, **mine)
        await submitted(client, **mine)
        second = await client.post("/evaluate?wait=false", json=EVALUATE, **mine)
    assert high.status_code == 403
    assert "priority 2" in high.json()["error"]
    assert second.status_code == 429
    assert int(second.headers["retry-after"]) >= 1
