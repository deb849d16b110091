"""Who may ask what: keys, scopes and rates, at every route and over a real connection."""

# Annotations are evaluated here: those of the routes name variables of a function.
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from memory_keys import MemoryKeys, api_key

from kerneljudge.api.access import COOKIE, Access, Denied, is_loopback
from kerneljudge.schema import EvaluateRequest, KernelCode, KernelType
from kerneljudge.service.access import Caller, Scope
from kerneljudge.service.settings import Settings

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

REQUEST = EvaluateRequest(kernel=KernelCode(source_code="x = 1", kernel_type=KernelType.TORCH))


def bearer(name: str) -> dict[str, str]:
    """What the holder of a test's key sends."""
    return {"Authorization": f"Bearer secret-{name}"}


@asynccontextmanager
async def guarded(keys: MemoryKeys | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that says who called it, with one route a scope."""
    access = Access(keys, Settings())
    app = FastAPI()

    def who(caller: Caller | None) -> dict[str, Any]:
        if caller is None:
            return {"caller": None}
        return {"client": caller.client, "key_id": caller.key_id, "sees": caller.sees}

    for scope in Scope:

        @app.api_route(f"/{scope}", methods=["GET", "POST"])
        async def route(
            caller: Annotated[Caller, Depends(access.require(scope))],
        ) -> dict[str, Any]:
            return who(caller)

    @app.get("/open")
    async def open_to_all(
        caller: Annotated[Caller | None, Depends(access.optional)],
    ) -> dict[str, Any]:
        return who(caller)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("keys", [None, MemoryKeys()], ids=["no store", "no key"])
async def test_without_keys_everyone_may_do_everything(keys: MemoryKeys | None) -> None:
    async with guarded(keys) as client:
        for path in ("/submit", "/read", "/admin", "/open"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.json() == {"client": "anonymous", "key_id": None, "sees": None}


async def test_without_keys_a_name_is_whose_share_it_is() -> None:
    async with guarded(None) as client:
        named = await client.get("/submit", headers={"X-KernelJudge-Client": "trainer 7"})
        assert named.json()["client"] == "trainer 7"
        for name in ("", "x" * 101, "a\tb"):
            refused = await client.get("/submit", headers={"X-KernelJudge-Client": name})
            assert refused.status_code == 400, name


@pytest.mark.parametrize(
    "credentials",
    [
        {"headers": {"Authorization": "Bearer secret-a"}},
        {"headers": {"authorization": "bearer  secret-a"}},
        {"headers": {"X-API-Key": "secret-a"}},
        {"headers": {"Cookie": f"{COOKIE}=secret-a"}},
    ],
    ids=["bearer", "lower case", "x-api-key", "cookie"],
)
async def test_a_key_comes_in_any_of_three_ways(credentials: dict[str, Any]) -> None:
    async with guarded(MemoryKeys(api_key("a"))) as client:
        for path in ("/submit", "/read", "/open"):
            answer = await client.get(path, **credentials)
            assert answer.json() == {"client": "key_a", "key_id": "key_a", "sees": "key_a"}


@pytest.mark.parametrize("path", ["/submit", "/read", "/admin"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer secret-b"},
        {"Authorization": "Bearer secret-gone"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic c2VjcmV0LWE6"},
        {"X-API-Key": "key_a"},
        {"Cookie": f"{COOKIE}=nothing"},
        {"X-KernelJudge-Client": "key_a"},
    ],
)
async def test_without_an_enabled_key_nothing_is_told(path: str, headers: dict[str, str]) -> None:
    async with guarded(MemoryKeys(api_key("a"), api_key("gone", disabled_at=2.0))) as client:
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "secret-" not in answer.text


async def test_what_is_open_says_little_without_a_key_and_refuses_a_wrong_one() -> None:
    async with guarded(MemoryKeys(api_key("a"))) as client:
        assert (await client.get("/open")).json() == {"caller": None}
        assert (await client.get("/open", headers=bearer("b"))).status_code == 401


@pytest.mark.parametrize("has", Scope)
@pytest.mark.parametrize("takes", Scope)
async def test_a_scope_opens_its_own_routes_and_admin_all(has: Scope, takes: Scope) -> None:
    async with guarded(MemoryKeys(api_key("a", has))) as client:
        answer = await client.get(f"/{takes}", headers=bearer("a"))
        if has in (takes, Scope.ADMIN):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 403
            assert f"this takes the scope {takes}, and this API key has {has}" in answer.text


async def test_the_rate_of_a_key_is_bounded_over_all_routes() -> None:
    keys = MemoryKeys(api_key("a", requests_per_minute=3), api_key("b"))
    async with guarded(keys) as client:
        for path in ("/submit", "/read", "/read"):
            assert (await client.get(path, headers=bearer("a"))).status_code == 200
        answer = await client.get("/read", headers=bearer("a"))
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        assert (await client.get("/read", headers=bearer("b"))).status_code == 200


async def test_a_page_of_another_site_cannot_submit() -> None:
    async with guarded(None) as client:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        assert (await client.post("/submit", headers=foreign)).status_code == 403
        assert (await client.get("/read", headers=foreign)).status_code == 200
        own = {"Sec-Fetch-Site": "same-origin"}
        assert (await client.post("/submit", headers=own)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://other.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
async def test_the_cookie_submits_for_the_servers_own_page_alone(
    headers: dict[str, str], status: int
) -> None:
    cookie = {"Cookie": f"{COOKIE}=secret-a"}
    async with guarded(MemoryKeys(api_key("a", Scope.SUBMIT, Scope.READ))) as client:
        submitted = await client.post("/submit", headers={**cookie, **headers})
        assert submitted.status_code == status
        read = await client.get("/read", headers={**cookie, **headers})
        assert read.status_code == 200
        keyed = await client.post("/submit", headers={**cookie, **headers, **bearer("a")})
        assert keyed.status_code == 200


async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with guarded(MemoryKeys(api_key("a"))) as client:
            for name in ("a", "b"):
                await client.get("/admin", headers=bearer(name))
    assert "secret-" not in caplog.text


def test_a_submission_carries_its_key_and_what_the_key_allows() -> None:
    access = Access(MemoryKeys(), Settings(max_unfinished_per_key=7))
    mine = Caller(api_key("a", max_unfinished=3, max_priority=2), "key_a")
    submission = access.submission(mine, REQUEST, priority=2, idempotency_key="once")
    assert (submission.client, submission.key_id) == ("key_a", "key_a")
    assert (submission.priority, submission.max_unfinished) == (2, 3)
    assert submission.idempotency_key == "once"
    plain = Caller(api_key("b"), "key_b")
    assert access.submission(plain, REQUEST).max_unfinished == 7
    anonymous = Caller(None, "anonymous")
    assert access.submission(anonymous, REQUEST, priority=10).max_unfinished is None


def test_a_priority_beyond_the_keys_is_refused() -> None:
    access = Access(MemoryKeys(), Settings())
    caller = Caller(api_key("a", max_priority=0), "key_a")
    with pytest.raises(Denied, match="priority 1 is above the highest of this API key, 0"):
        access.submission(caller, REQUEST, priority=1)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("judge.example", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_told_from_others(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
