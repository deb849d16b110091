"""The page over HTTP, without a browser: who sees what, and what it refuses."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from applications import application, client_of
from memory_keys import MemoryKeys, api_key
from scripted import H200, ScriptedEvaluator, accepted, failed

from kerneljudge.api.access import COOKIE
from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import EvaluateRequest, FaultKind, JobRequest, KernelCode, Phase
from kerneljudge.service import EvaluatorUnavailable, JobService, JobState
from kerneljudge.service.access import Scope
from kerneljudge.service.evaluator import DeviceHealth, DeviceState
from kerneljudge.service.records import Submission

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def request(source: str = "def f(x): return x") -> EvaluateRequest:
    return EvaluateRequest(
        kernel=KernelCode.model_validate({"source_code": source, "kernel_type": "torch"})
    )


@asynccontextmanager
async def serving(
    evaluator: ScriptedEvaluator | None = None, keys: MemoryKeys | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, JobService]]:
    async with (
        application(evaluator or ScriptedEvaluator(), keys, **settings) as (app, service),
        client_of(app) as client,
    ):
        yield client, service


async def judged(service: JobService, **fields: Any) -> str:
    """A job that has ended: its id."""
    job = await service.submit(Submission(**({"request": request()} | fields)))
    await service.wait(job.job_id)
    return job.job_id


def shown(page: httpx.Response) -> set[str]:
    """The jobs that a page links to."""
    return set(re.findall(r'href="/ui/jobs/([0-9a-f-]{36})"', page.text))


async def test_the_front_page_lists_jobs_and_devices() -> None:
    async with serving(ScriptedEvaluator(environment=H200)) as (client, service):
        job_id = await judged(service, client="alice")
        page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert shown(page) == {job_id}
    for text in ("NVIDIA H200", "Accepted", "alice", "takes jobs", "1.23 ms"):
        assert text in page.text


async def test_jobs_are_filtered_and_paged() -> None:
    def script(asked: JobRequest) -> Any:
        wrong = isinstance(asked, EvaluateRequest) and "wrong" in asked.kernel.source_code
        return failed(asked, FaultKind.CRASHED, Phase.CHECK) if wrong else accepted(asked)

    async with serving(ScriptedEvaluator(script)) as (client, service):
        crashed = await judged(service, request=request("wrong"), client="bob & co")
        all_ids = {crashed} | {await judged(service) for _ in range(29)}
        first = await client.get("/")
        older = re.search(r'href="(/\?cursor=[^"]+)"', first.text)
        assert older is not None
        second = await client.get(older[1])
        assert len(shown(first)) == 25
        assert shown(first) | shown(second) == all_ids
        assert not shown(first) & shown(second)
        assert shown(await client.get("/?verdict=crashed")) == {crashed}
        assert shown(await client.get("/", params={"client": "bob & co"})) == {crashed}
        assert not shown(await client.get("/?state=failed&kind=compare"))


@pytest.mark.parametrize(
    "query", ["state=asleep", "verdict=good", "kind=x", "cursor=none", "client=%00"]
)
async def test_a_filter_that_is_none_is_refused_in_words(query: str) -> None:
    async with serving() as (client, _):
        page = await client.get(f"/?{query}")
    assert page.status_code == 400
    assert page.headers["content-type"].startswith("text/html")


async def test_a_job_page_tells_what_went_wrong_and_escapes_it() -> None:
    def script(asked: JobRequest) -> Any:
        report = failed(asked, FaultKind.COMPILE_ERROR, Phase.BUILD)
        fault = report.fault
        assert fault is not None
        fault = fault.model_copy(
            update=dict.fromkeys(("message", "hint", "traceback"), HOSTILE + "!")
        )
        candidate = report.candidate.model_copy(
            update={"fault": fault, "stdout": HOSTILE, "notes": [HOSTILE], "kernel_name": HOSTILE}
        )
        return report.model_copy(
            update={"candidate": candidate, "fault": fault, "task_warnings": [HOSTILE]}
        )

    kernel = KernelCode.model_validate(
        {"source_code": HOSTILE, "kernel_type": "torch", "metadata": {HOSTILE: HOSTILE}}
    )
    async with serving(ScriptedEvaluator(script)) as (client, service):
        job_id = await judged(service, request=EvaluateRequest(kernel=kernel), client="<b>bold</b>")
        page = await client.get(f"/ui/jobs/{job_id}")
        front = await client.get("/")
        text = await client.get(f"/ui/jobs/{job_id}/candidate.txt")
    assert page.status_code == 200
    assert "Compile error" in page.text
    for document in (page, front):
        assert "<script>alert" not in document.text
        assert "<img src=x" not in document.text
        assert "<b>bold" not in document.text
    assert page.text.count("alert(1)") >= 2 * 7
    assert "{{ 7 * 7 }}" in page.text
    assert (text.text, text.headers["content-type"]) == (HOSTILE, "text/plain; charset=utf-8")
    assert text.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        f"/ui/jobs/{uuid.UUID(int=7)}",
        "/ui/jobs/no-uuid",
        "/ui/jobs/%00",
        f"/ui/jobs/{uuid.UUID(int=7)}/candidate.txt",
        "/static/nothing.js",
    ],
)
async def test_what_is_not_there_is_a_page_that_says_so(path: str) -> None:
    async with serving() as (client, _):
        page = await client.get(path)
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("name", ["..%2froutes.py", "%2e%2e/routes.py", "%2fetc%2fpasswd"])
async def test_no_other_file_is_served(name: str) -> None:
    async with serving() as (client, _):
        assert (await client.get(f"/static/{name}")).status_code == 404


async def test_an_evaluation_has_no_reference_to_show() -> None:
    async with serving() as (client, service):
        job_id = await judged(service)
        for side in ("reference", "other"):
            assert (await client.get(f"/ui/jobs/{job_id}/{side}.txt")).status_code == 404


async def test_every_page_has_a_policy_that_allows_no_inline_script() -> None:
    async with serving() as (client, service):
        job_id = await judged(service)
        own = f"/ui/jobs/{job_id}"
        for path in ("/", own, "/ui/jobs/none", f"{own}/candidate.txt"):
            page = await client.get(path)
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            # Plotly adds style elements; nothing else may be inline, and no attribute either.
            with_plot = "; style-src-elem 'self' 'unsafe-inline'"
            assert "unsafe" not in policy.replace(with_plot, "")
            assert (with_plot in policy) == (path == own)
            assert page.headers["cache-control"] == "no-store"
            for script in re.findall(r"<script[^>]*>", page.text):
                assert 'src="/static/' in script or 'type="application/json"' in script
            assert "style=" not in page.text


async def test_static_files_are_kept_for_ever_by_their_content() -> None:
    async with serving() as (client, service):
        page = await client.get(f"/ui/jobs/{await judged(service)}")
        addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
        assert len(set(addresses)) == 5
        for address in addresses:
            answer = await client.get(address, headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == 200
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            plain = await client.get(address, headers={"Accept-Encoding": "identity"})
            assert "content-encoding" not in plain.headers
            assert plain.content == answer.content


async def test_a_device_says_why_it_takes_no_jobs() -> None:
    class Broken(ScriptedEvaluator):
        def devices(self) -> list[DeviceState]:
            state = super().devices()[0]
            state.ready, state.health = False, DeviceHealth.QUARANTINED
            state.reason = "it failed <3> times"
            state.layers = [
                SandboxLayer(name="landlock", active=False, reason="Linux is older than <5.13>"),
                SandboxLayer(name="resource limits", active=True),
            ]
            return [state]

    async with serving(Broken()) as (client, _):
        page = await client.get("/")
    assert "no device takes jobs" in page.text
    assert "quarantined" in page.text
    assert "it failed &lt;3&gt; times" in page.text
    assert "Not confined by landlock: Linux is older than &lt;5.13&gt;" in page.text
    assert "resource limits" not in page.text


async def test_a_running_job_is_looked_at_again_and_an_ended_one_is_not() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serving(evaluator) as (client, service):
        job = await service.submit(Submission(request()))
        async for event in service.events(job.job_id):
            if event.state is JobState.VALIDATING:
                break
        page = await client.get(f"/ui/jobs/{job.job_id}")
        assert "data-refresh" in page.text
        assert "Checking" in page.text
        assert "Cancel job" in page.text
        assert job.job_id in shown(await client.get("/"))
        evaluator.step()
        await service.wait(job.job_id)
        page = await client.get(f"/ui/jobs/{job.job_id}")
        assert "data-refresh" not in page.text
        assert "Cancel job" not in page.text


async def test_a_job_that_never_began_says_why_it_ended() -> None:
    async with serving(ScriptedEvaluator(ready=False)) as (client, service):
        job = await service.submit(Submission(request("never = 'run'")))
        waiting = await client.get(f"/ui/jobs/{job.job_id}")
        await service.cancel(job.job_id, "nobody <waits> for it")
        cancelled = await client.get(f"/ui/jobs/{job.job_id}")
        front = await client.get("/?state=cancelled")
    assert "Waiting" in waiting.text
    assert "Cancelled" in cancelled.text
    assert cancelled.text.count("nobody &lt;waits&gt; for it") >= 1
    assert "never" in cancelled.text
    assert shown(front) == {job.job_id}


async def test_a_job_that_was_queued_again_says_why() -> None:
    calls = []

    def script(asked: JobRequest) -> Any:
        calls.append(asked)
        if len(calls) == 1:
            raise EvaluatorUnavailable("its judge <died>")
        return accepted(asked)

    async with serving(ScriptedEvaluator(script)) as (client, service):
        page = await client.get(f"/ui/jobs/{await judged(service)}")
    assert "its judge &lt;died&gt;" in page.text
    assert "2 attempts" in page.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME_ORIGIN, 303),
        ({"Origin": "http://localhost"}, 303),
        ({}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:81"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
    ],
)
async def test_only_a_form_of_the_page_itself_cancels(headers: dict[str, str], status: int) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serving(evaluator) as (client, service):
        job = await service.submit(Submission(request()))
        answer = await client.post(f"/ui/jobs/{job.job_id}/cancel", headers=headers)
        assert answer.status_code == status
        ended = await service.get(job.job_id)
        assert ended is not None
        assert (ended.state is JobState.CANCELLED) == (status == 303)
        assert (await client.get(f"/ui/jobs/{job.job_id}/cancel")).status_code == 405


ALICE = api_key("alice")
BOB = api_key("bob", Scope.READ)
SUBMITTER = api_key("submitter", Scope.SUBMIT)
ROOT = api_key("root", Scope.ADMIN)


def as_(name: str) -> dict[str, str]:
    """What a browser that has logged in with the key sends."""
    return {"Cookie": f"{COOKIE}=secret-{name}", **SAME_ORIGIN}


async def test_a_key_sees_its_own_jobs_alone() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serving(evaluator, MemoryKeys(ALICE, BOB, ROOT)) as (client, service):
        job = await service.submit(Submission(request(), client="key_alice", key_id="key_alice"))
        path = f"/ui/jobs/{job.job_id}"
        for name in ("alice", "root"):
            assert job.job_id in shown(await client.get("/", headers=as_(name)))
            assert (await client.get(path, headers=as_(name))).status_code == 200
        front = await client.get("/", headers=as_("bob"))
        assert not shown(front)
        assert "key_alice" not in front.text
        for address in (path, f"{path}/candidate.txt"):
            assert (await client.get(address, headers=as_("bob"))).status_code == 404


async def test_a_key_does_on_the_page_what_its_scopes_allow() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.CHECK,))
    async with serving(evaluator, MemoryKeys(ALICE, BOB, SUBMITTER)) as (client, service):
        job = await service.submit(Submission(request(), client="key_bob", key_id="key_bob"))
        path = f"/ui/jobs/{job.job_id}"
        page = await client.get(path, headers=as_("bob"))
        assert "Cancel job" not in page.text
        assert (await client.post(f"{path}/cancel", headers=as_("bob"))).status_code == 403
        assert (await client.post(f"{path}/cancel", headers=as_("alice"))).status_code == 404
        assert (await client.get("/", headers=as_("submitter"))).status_code == 403
        still = await service.get(job.job_id)
        assert still is not None
        assert not still.state.finished


async def test_without_a_key_the_page_asks_for_one_and_goes_where_it_was_to_go() -> None:
    async with serving(keys=MemoryKeys(ALICE)) as (client, service):
        job_id = await judged(service, key_id="key_alice", client="key_alice")
        asked = await client.get(f"/ui/jobs/{job_id}")
        assert asked.status_code == 303
        form = await client.get(asked.headers["location"])
        assert form.status_code == 200
        following = re.search(r'name="next" value="([^"]*)"', form.text)
        assert following is not None
        wrong = await client.post(
            "/ui/login", headers=SAME_ORIGIN, data={"key": "kj_wrong", "next": following[1]}
        )
        assert wrong.status_code == 401
        assert "set-cookie" not in wrong.headers
        assert "kj_wrong" not in wrong.text
        right = await client.post(
            "/ui/login", headers=SAME_ORIGIN, data={"key": "secret-alice", "next": following[1]}
        )
        assert (right.status_code, right.headers["location"]) == (303, f"/ui/jobs/{job_id}")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert (await client.get(f"/ui/jobs/{job_id}")).status_code == 200
        out = await client.post("/ui/logout", headers=SAME_ORIGIN)
        assert out.status_code == 303
        assert (await client.get("/")).status_code == 303


@pytest.mark.parametrize(
    "address",
    [
        *("//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/a\r\nb: c"),
        *("http://[", "//[", "/\t/evil.example"),
    ],
)
async def test_login_leads_to_no_other_server(address: str) -> None:
    async with serving(keys=MemoryKeys(ALICE)) as (client, _):
        form = await client.get("/ui/login", params={"next": address})
        assert 'name="next" value="/"' in form.text
        answer = await client.post(
            "/ui/login", headers=SAME_ORIGIN, data={"key": "secret-alice", "next": address}
        )
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://[", "null"])
async def test_another_site_can_not_log_anybody_in(origin: str) -> None:
    async with serving(keys=MemoryKeys(ALICE)) as (client, _):
        answer = await client.post(
            "/ui/login",
            headers={"Origin": origin},
            data={"key": "secret-alice", "next": "/"},
        )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_form_that_is_too_long_is_not_read() -> None:
    async with serving(keys=MemoryKeys(ALICE)) as (client, _):
        answer = await client.post(
            "/ui/login", headers=SAME_ORIGIN, data={"key": "x" * 100_000, "next": "/"}
        )
    assert answer.status_code == 413
