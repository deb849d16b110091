"""Keys, their rates, and the administrator's key from a file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_keys import MemoryKeys, api_key

from kerneljudge.service.access import (
    ApiKey,
    Caller,
    KeyRing,
    RateLimiter,
    Scope,
    digest_of,
    new_key_id,
    new_secret,
    register_admin_key,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

SECRET = "0123456789abcdef0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def secret_file(folder: Path, text: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = folder / "admin-key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secrets_and_ids_are_drawn_anew_and_long() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("kj_") and len(secret) >= 43 for secret in secrets)
    assert len({new_key_id() for _ in range(100)}) == 100


def test_what_is_stored_of_a_secret_does_not_contain_it() -> None:
    secret = new_secret()
    key = api_key("a", secret=secret)
    assert secret not in repr(key)
    assert key.digest == digest_of(secret) != secret


def test_an_administrator_may_do_everything_and_sees_everyones_jobs() -> None:
    caller = Caller(api_key("root", Scope.ADMIN), "key_root")
    assert all(caller.may(scope) for scope in Scope)
    assert caller.sees is None


def test_any_other_key_may_do_what_it_says_and_sees_its_own_jobs() -> None:
    caller = Caller(api_key("reader", Scope.READ, max_priority=2), "key_reader")
    assert [scope for scope in Scope if caller.may(scope)] == [Scope.READ]
    assert caller.sees == "key_reader"
    assert caller.max_priority == 2


async def test_a_ring_finds_enabled_keys_alone() -> None:
    ring = KeyRing(MemoryKeys(api_key("a"), api_key("gone", disabled_at=2.0)))
    found = await ring.find("secret-a")
    assert found is not None
    assert found.key_id == "key_a"
    assert await ring.find("secret-gone") is None
    assert await ring.find("secret-b") is None
    assert await ring.find(digest_of("secret-a")) is None, "a digest is no secret"


async def test_a_ring_reads_again_only_when_what_it_knows_is_old() -> None:
    clock, store = Clock(), MemoryKeys(api_key("a"))
    ring = KeyRing(store, max_age=1.0, clock=clock)
    for _ in range(3):
        assert await ring.find("secret-a") is not None
        assert await ring.find("unknown") is None
    assert store.reads == 1
    await store.disable_key("key_a", 2.0)
    await store.add_key(api_key("b"))
    clock.now += 1.0
    assert await ring.find("secret-a") is None
    assert await ring.find("secret-b") is not None
    assert store.reads == 2


async def test_a_server_whose_keys_are_all_disabled_stays_closed() -> None:
    assert not await KeyRing(MemoryKeys()).needed()
    assert await KeyRing(MemoryKeys(api_key("gone", disabled_at=2.0))).needed()


async def test_a_ring_tells_the_share_of_every_key() -> None:
    ring = KeyRing(MemoryKeys(api_key("a", weight=2.0), api_key("gone", disabled_at=2.0)))
    assert await ring.weights() == {"key_a": 2.0, "key_gone": 1.0}


def test_a_rate_allows_a_minutes_requests_at_once_and_then_an_even_flow() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    key = api_key("a", requests_per_minute=6)
    assert [limiter.take(key) for _ in range(6)] == [0.0] * 6
    assert limiter.take(key) == pytest.approx(10.0)
    clock.now += 4
    assert limiter.take(key) == pytest.approx(6.0)
    clock.now += 6.001
    assert limiter.take(key) == 0.0
    assert limiter.take(key) > 0


def test_rates_are_counted_for_each_key_alone() -> None:
    limiter = RateLimiter(Clock())
    assert limiter.take(api_key("a", requests_per_minute=1)) == 0.0
    assert limiter.take(api_key("a", requests_per_minute=1)) > 0
    assert limiter.take(api_key("b", requests_per_minute=1)) == 0.0
    assert [limiter.take(api_key("c")) for _ in range(100)] == [0.0] * 100


@given(
    rate=st.integers(1, 600),
    waits=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=100),
)
def test_no_more_passes_than_the_bucket_and_what_flowed_in(rate: int, waits: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    key = api_key("a", requests_per_minute=rate)
    passed = 0
    for wait in waits:
        clock.now += wait
        passed += limiter.take(key) == 0.0
    assert passed <= rate + sum(waits) * rate / 60 + 1e-6


async def test_the_key_in_a_file_becomes_an_administrators(tmp_path: Path) -> None:
    store = MemoryKeys()
    key = await register_admin_key(store, secret_file(tmp_path))
    found = await KeyRing(store).find(SECRET)
    assert found == key
    assert key.scopes == {Scope.ADMIN}


async def test_the_same_file_at_the_next_start_is_the_same_key(tmp_path: Path) -> None:
    store = MemoryKeys()
    first = await register_admin_key(store, secret_file(tmp_path))
    assert await register_admin_key(store, secret_file(tmp_path)) == first
    assert len(await store.keys()) == 1


async def test_another_secret_in_the_file_replaces_the_one_before(tmp_path: Path) -> None:
    store = MemoryKeys(api_key("user"))
    await register_admin_key(store, secret_file(tmp_path))
    await register_admin_key(store, secret_file(tmp_path, "x" * 40))
    ring = KeyRing(store)
    assert await ring.find(SECRET) is None
    assert await ring.find("x" * 40) is not None
    assert await ring.find("secret-user") is not None


async def test_two_servers_that_register_the_same_file_at_once_agree(tmp_path: Path) -> None:
    class Raced(MemoryKeys):
        """Another server adds the key between the look and the write."""

        async def add_key(self, key: ApiKey) -> None:
            await super().add_key(api_key("other", Scope.ADMIN, secret=SECRET))
            raise ValueError("an enabled key has the name")

    assert (await register_admin_key(Raced(), secret_file(tmp_path))).key_id == "key_other"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("short\n", "at least 32 characters"),
        ("", "at least 32 characters"),
        ("a" * 40 + "\n" + "b" * 40, "one line"),
        ("two words " * 5, "without spaces"),
        ("ä" * 40, "no ASCII"),
    ],
)
async def test_a_file_without_a_secret_is_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    store = MemoryKeys()
    with pytest.raises(ValueError, match=complaint) as refusal:
        await register_admin_key(store, secret_file(tmp_path, text))
    assert not await store.keys()
    assert text.strip() not in str(refusal.value) or not text


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*/nothing: No such file"):
        await register_admin_key(MemoryKeys(), tmp_path / "nothing")


async def test_a_disabled_key_does_not_come_back_by_its_file(tmp_path: Path) -> None:
    store = MemoryKeys()
    key = await register_admin_key(store, secret_file(tmp_path))
    await store.disable_key(key.key_id, 5.0)
    with pytest.raises(ValueError, match="is disabled: write another secret"):
        await register_admin_key(store, secret_file(tmp_path))


async def test_a_file_with_a_users_secret_makes_no_administrator_of_him(tmp_path: Path) -> None:
    store = MemoryKeys(api_key("user", secret=SECRET))
    with pytest.raises(ValueError, match="has not the scope admin"):
        await register_admin_key(store, secret_file(tmp_path))


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
async def test_a_file_that_everyone_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    with caplog.at_level(logging.INFO):
        await register_admin_key(MemoryKeys(), secret_file(tmp_path, mode=mode))
    assert ("every user of this machine may read" in caplog.text) is warned
    assert SECRET not in caplog.text
