"""Keys over real connections: every route of a server, others' jobs, quotas, keys meanwhile."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from listening import listening
from memory_keys import api_key
from scripted import ScriptedEvaluator
from starlette.routing import Route

from kerneljudge.api.app import create_app
from kerneljudge.schema import Phase
from kerneljudge.service import JobService, Settings, SqlStore
from kerneljudge.service.access import Scope

pytestmark = pytest.mark.integration

KERNEL: dict[str, Any] = {"source_code": "def f(x): return x", "kernel_type": "torch"}
EVALUATE: dict[str, Any] = {"kernel": KERNEL}
COMPARE: dict[str, Any] = {"ref_kernel": KERNEL, "custom_kernel": KERNEL}
SUBMITTED = {
    "/": COMPARE,
    "/batch": {"requests": [EVALUATE]},
    "/compare": COMPARE,
    "/evaluate": EVALUATE,
}

# What tells nothing of anybody's jobs.
OPEN = {
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
    ("GET", "/static/{name}"),
    ("GET", "/ui/login"),
}
# Of these, what tells more to those who may know.
ASKS_WHO = {("GET", "/health")}
# What asks for a key, or forgets it.
LOGIN = {("POST", "/ui/login"), ("POST", "/ui/logout")}
# What takes any key, and then a scope for each tool.
TOOLS = {("GET", "/mcp"), ("POST", "/mcp"), ("DELETE", "/mcp")}
# Every other route takes a scope: READ, unless it is one of these.
SCOPES = {
    ("POST", "/"): Scope.SUBMIT,
    ("POST", "/batch"): Scope.SUBMIT,
    ("POST", "/compare"): Scope.SUBMIT,
    ("POST", "/evaluate"): Scope.SUBMIT,
    ("DELETE", "/job/{job_id}"): Scope.SUBMIT,
    ("POST", "/admin/cleanup-jobs"): Scope.ADMIN,
    ("POST", "/ui/jobs/{job_id}/cancel"): Scope.SUBMIT,
}
KEYS = [api_key(scope.value, scope) for scope in Scope]


def routes() -> list[tuple[str, str]]:
    """Every method and path of the application, as it would be for real."""
    store = asyncio.run(SqlStore.open("sqlite://"))
    settings = Settings()
    app = create_app(JobService(ScriptedEvaluator(), store=store, settings=settings), settings)
    asyncio.run(store.close())
    found = []
    for route in app.routes:
        assert isinstance(route, Route), f"{route} is not looked at here"
        methods = route.methods or {"GET", "POST", "DELETE"}
        found += [(method, route.path) for method in sorted(methods - {"HEAD"})]
    return found


GUARDED = [route for route in routes() if route not in OPEN | LOGIN]


def bearer(name: str) -> dict[str, str]:
    """What the holder of a test's key sends."""
    return {"Authorization": f"Bearer secret-{name}"}


@pytest.fixture(scope="module")
def anyone() -> Iterator[httpx.Client]:
    """A client, without a key, of a server with a key a scope."""
    with (
        listening(ScriptedEvaluator(), keys=KEYS) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def keyless() -> Iterator[httpx.Client]:
    """A client of a server without keys."""
    with (
        listening(ScriptedEvaluator()) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize("path", ["/jobs/", "/mcp/", "/ui/login/", "/evaluate/", "//jobs"])
def test_no_path_leads_where_the_host_header_says(anyone: httpx.Client, path: str) -> None:
    url = httpx.URL(anyone.base_url, raw_path=path.encode())
    answer = anyone.get(url, headers={"Host": "other.example"})
    assert answer.status_code == 404
    assert answer.json()["status"] == "error"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_there_is_no_page_with_scripts_from_elsewhere(anyone: httpx.Client, path: str) -> None:
    assert anyone.get(path).status_code == 404


def ask(client: httpx.Client, route: tuple[str, str], headers: dict[str, str]) -> httpx.Response:
    """One request to a route, about a job that there is not."""
    method, path = route
    for variable, value in (
        ("{job_id}", str(uuid.uuid4())),
        ("{side}", "candidate"),
        ("{name}", "plotly.min.js"),
    ):
        path = path.replace(variable, value)
    return client.request(
        method,
        path,
        json=SUBMITTED.get(path) if method == "POST" else None,
        headers={"Sec-Fetch-Site": "same-origin", **headers},
    )


def test_every_route_that_is_known_here_exists() -> None:
    assert OPEN | LOGIN | TOOLS | SCOPES.keys() <= set(routes())


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
@pytest.mark.parametrize("headers", [{}, bearer("nobody"), {"X-API-Key": "nothing"}])
def test_no_route_answers_without_a_key(
    anyone: httpx.Client, route: tuple[str, str], headers: dict[str, str]
) -> None:
    answer = ask(anyone, route, headers)
    if answer.status_code == 303:
        assert answer.headers["Location"].startswith("/ui/login?")
    else:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("route", sorted(OPEN), ids=" ".join)
def test_what_is_open_needs_no_key(anyone: httpx.Client, route: tuple[str, str]) -> None:
    assert ask(anyone, route, {}).status_code == 200


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
@pytest.mark.parametrize("has", Scope)
def test_each_route_takes_its_scope(
    anyone: httpx.Client, route: tuple[str, str], has: Scope
) -> None:
    answer = ask(anyone, route, bearer(has.value))
    takes = SCOPES.get(route, Scope.READ)
    if route in TOOLS or has in (takes, Scope.ADMIN):
        assert answer.status_code not in (303, 401, 403)
        assert answer.status_code < 500
    else:
        assert answer.status_code == 403
        assert re.search(f"takes the scope \\W*{takes}", answer.text)


@pytest.mark.parametrize(
    "route", [route for route in routes() if route not in LOGIN | OPEN - ASKS_WHO], ids=" ".join
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "localhost.rebound.example:8000"},
        {"Host": "127.0.0.1@rebound.example"},
        {"Host": "[", "Origin": "http://localhost"},
        {"Origin": "http://rebound.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_without_keys_no_route_answers_under_another_name(
    keyless: httpx.Client, route: tuple[str, str], headers: dict[str, str]
) -> None:
    assert ask(keyless, route, headers).status_code == 403
    assert ask(keyless, route, {"Host": "localhost:8000"}).status_code != 403


def test_the_jobs_of_another_key_are_not_to_be_seen(tmp_path: Path) -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.READ,))
    keys = [api_key("mine"), api_key("other"), api_key("root", Scope.ADMIN)]
    with (
        listening(evaluator, keys=keys) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        submitted = client.post("/evaluate?wait=false", json=EVALUATE, headers=bearer("mine"))
        assert submitted.status_code == 202
        path = submitted.headers["Location"]
        for method, target in (("GET", path), ("GET", f"{path}/events"), ("DELETE", path)):
            hidden = client.request(method, target, headers=bearer("other"))
            unknown = client.request(
                method, target.replace(path, f"/job/{uuid.uuid4()}"), headers=bearer("other")
            )
            assert hidden.status_code == unknown.status_code == 404
        assert client.get("/jobs", headers=bearer("other")).json()["jobs"] == []
        named = client.get("/jobs?client=key_mine", headers=bearer("other"))
        assert named.json()["jobs"] == []
        assert client.get("/health", headers=bearer("other")).json()["job_stats"]["total_jobs"] == 0
        assert client.get("/stats", headers=bearer("other")).json()["job_stats"]["total_jobs"] == 0
        assert client.get("/health").json()["job_stats"]["total_jobs"] == 0
        for name in ("mine", "root"):
            assert client.get(path, headers=bearer(name)).status_code == 200
            assert len(client.get("/jobs", headers=bearer(name)).json()["jobs"]) == 1
        assert client.delete(path, headers=bearer("mine")).json()["status"] == "cancelled"


def test_the_same_idempotency_key_of_two_keys_is_two_jobs() -> None:
    with (
        listening(ScriptedEvaluator(), keys=[api_key("a"), api_key("b")]) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        jobs = {
            name: client.post(
                "/evaluate", json=EVALUATE, headers={**bearer(name), "Idempotency-Key": "once"}
            ).json()["job_id"]
            for name in ("a", "b", "a")
        }
        again = client.post(
            "/evaluate", json=EVALUATE, headers={**bearer("a"), "Idempotency-Key": "once"}
        )
        assert jobs["a"] != jobs["b"]
        assert again.json()["job_id"] == jobs["a"]


def test_a_key_has_no_more_unfinished_jobs_than_it_may() -> None:
    evaluator = ScriptedEvaluator(steps=(Phase.READ,))
    keys = [api_key("small", max_unfinished=2), api_key("plain")]
    with (
        listening(evaluator, keys=keys, max_unfinished_per_key=1) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):

        def submit(name: str) -> httpx.Response:
            return client.post("/evaluate?wait=false", json=EVALUATE, headers=bearer(name))

        assert [submit("small").status_code for _ in range(3)] == [202, 202, 429]
        assert [submit("plain").status_code for _ in range(2)] == [202, 429]
        refused = submit("small")
        assert int(refused.headers["Retry-After"]) >= 1
        batch = {"requests": [EVALUATE] * 2}
        assert client.post("/batch", json=batch, headers=bearer("plain")).status_code == 429
        jobs = client.get("/jobs", headers=bearer("small")).json()["jobs"]
        assert len(jobs) == 2
        ended = client.delete(f"/job/{jobs[0]['job_id']}", headers=bearer("small"))
        assert ended.json()["status"] == "cancelled"
        assert submit("small").status_code == 202


def test_a_priority_above_the_keys_is_refused_for_one_and_for_many() -> None:
    with (
        listening(ScriptedEvaluator(), keys=[api_key("low", max_priority=0)]) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert client.post("/evaluate?priority=0", json=EVALUATE, headers=bearer("low")).is_success
        for path in ("/evaluate", "/batch"):
            refused = client.post(f"{path}?priority=1", json=SUBMITTED[path], headers=bearer("low"))
            assert refused.status_code == 403
            assert "above the highest of this API key, 0" in refused.json()["error"]


def test_a_rate_is_answered_with_when_to_come_back() -> None:
    with (
        listening(ScriptedEvaluator(), keys=[api_key("slow", requests_per_minute=2)]) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        codes = [client.get("/jobs", headers=bearer("slow")).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        refused = client.post("/evaluate", json=EVALUATE, headers=bearer("slow"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 30


def test_keys_that_are_made_and_disabled_beside_a_server_count_soon(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/jobs.db"

    async def beside(change: str) -> None:
        store = await SqlStore.open(database, serving=False)
        if change == "make":
            await store.add_key(api_key("late"))
        else:
            assert await store.disable_key("key_late", time.time())
        await store.close()

    def becomes(client: httpx.Client, code: int, headers: dict[str, str]) -> None:
        deadline = time.monotonic() + 10
        while client.get("/jobs", headers=headers).status_code != code:
            assert time.monotonic() < deadline, f"/jobs was not answered with {code}"

    with (
        listening(ScriptedEvaluator(), database=database) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert client.get("/jobs").status_code == 200
        asyncio.run(beside("make"))
        becomes(client, 401, {})
        assert client.get("/jobs", headers=bearer("late")).status_code == 200
        asyncio.run(beside("disable"))
        becomes(client, 401, bearer("late"))
        assert client.get("/jobs").status_code == 401, "it does not open again by itself"
