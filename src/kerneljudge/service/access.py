"""Who may ask what: API keys, their scopes, their quotas."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerneljudge.service.store.protocol import KeyStore

__all__ = [
    "ApiKey",
    "Caller",
    "KeyRing",
    "RateLimiter",
    "Scope",
    "digest_of",
    "new_key_id",
    "new_secret",
    "register_admin_key",
]

_LOG = logging.getLogger(__name__)

_PREFIX = "kj_"
_FILE_KEY_NAME = "admin key file"
_MIN_SECRET = 32


class Scope(StrEnum):
    """What a key may do."""

    SUBMIT = "submit"
    """Submit jobs, and cancel its own."""
    READ = "read"
    """See its own jobs and the server's state."""
    ADMIN = "admin"
    """Everything, of everyone."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret."""

    key_id: str
    """What names it; no secret."""
    name: str
    """Who or what it is for."""
    digest: str
    """SHA-256 of the secret, hexadecimal. The secret has 256 random bits, so that no slower hash
    makes it harder to find."""
    scopes: frozenset[Scope]
    """What it may do."""
    created_at: float
    """When it was made, in seconds since the epoch."""
    weight: float = 1.0
    """Its share of the devices, against that of others."""
    max_unfinished: int | None = None
    """Unfinished jobs that it may have; None for the server's own bound."""
    requests_per_minute: int | None = None
    """Requests that it may send a minute; None for no bound."""
    max_priority: int = 10
    """The highest priority that it may ask for."""
    disabled_at: float | None = None
    """When it was disabled, if it was."""

    @property
    def enabled(self) -> bool:
        """Whether it opens anything."""
        return self.disabled_at is None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends one request."""

    key: ApiKey | None
    """The key; None on a server without keys, where everyone may do everything."""
    client: str
    """Whose share of the devices its jobs take."""

    @property
    def key_id(self) -> str | None:
        """The key's id, if there is a key."""
        return self.key.key_id if self.key is not None else None

    @property
    def max_priority(self) -> int:
        """The highest priority that it may ask for."""
        return self.key.max_priority if self.key is not None else 10

    @property
    def sees(self) -> str | None:
        """The key whose jobs it sees; None if it sees all of them."""
        return None if self.may(Scope.ADMIN) else self.key_id

    def may(self, scope: Scope) -> bool:
        """Whether it may do what the scope allows."""
        return self.key is None or scope in self.key.scopes or Scope.ADMIN in self.key.scopes


class KeyRing:
    """The keys of a store, read again when what is known of them is older than `max_age` seconds.

    A key that is added or disabled, by whatever process, therefore counts within that time.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        max_age: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet."""
        self._store = store
        self._max_age = max_age
        self._clock = clock
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self._by_digest: dict[str, ApiKey] = {}

    async def needed(self) -> bool:
        """Whether callers need a key: from the first key on, even while all are disabled."""
        return bool(await self._keys())

    async def find(self, secret: str) -> ApiKey | None:
        """The enabled key with this secret, or None.

        What is compared is the secret's SHA-256, so how long it takes says nothing of any secret.
        """
        key = (await self._keys()).get(digest_of(secret))
        return key if key is not None and key.enabled else None

    async def weights(self) -> Mapping[str, float]:
        """The share of each key, by its id; disabled keys too, whose last jobs still run."""
        return {key.key_id: key.weight for key in (await self._keys()).values()}

    async def _keys(self) -> dict[str, ApiKey]:
        async with self._reading:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= self._max_age:
                self._by_digest = {key.digest: key for key in await self._store.keys()}
                self._read_at = now
        return self._by_digest


class RateLimiter:
    """A bucket of tokens a key: a minute's requests may come at once, then they come evenly.

    Counts within this process: two servers of one database each allow the full rate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Every bucket begins full."""
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: ApiKey) -> float:
        """Counts one request of the key: 0 if it may go on, else the seconds until it may.

        A request that may not is not counted.
        """
        if key.requests_per_minute is None:
            return 0.0
        rate = key.requests_per_minute / 60
        now = self._clock()
        tokens, then = self._buckets.get(key.key_id, (float(key.requests_per_minute), now))
        tokens = min(float(key.requests_per_minute), tokens + (now - then) * rate)
        if tokens < 1:
            self._buckets[key.key_id] = (tokens, now)
            return (1 - tokens) / rate
        self._buckets[key.key_id] = (tokens - 1, now)
        return 0.0


async def register_admin_key(store: KeyStore, path: Path) -> ApiKey:
    """Makes the secret in a file the key of an administrator, and returns that key.

    A secret that came from such a file before, and is not in it any more, opens nothing from now
    on. Raises ValueError where the file cannot be read, holds no secret of at least 32
    characters, or holds that of a key that is disabled or has not the scope `admin`.
    """
    secret = _secret_in(path)
    digest = digest_of(secret)
    found = await store.find_key(digest)
    if found is None:
        now = time.time()
        for key in await store.keys():
            if key.name == _FILE_KEY_NAME and key.enabled:
                await store.disable_key(key.key_id, now)
                _LOG.info("key %s (%s) is replaced", key.key_id, key.name)
        found = ApiKey(new_key_id(), _FILE_KEY_NAME, digest, frozenset({Scope.ADMIN}), now)
        try:
            await store.add_key(found)
        except ValueError:
            # Another server of this database, started with the same file, was faster.
            found = await store.find_key(digest)
            if found is None:
                raise
    if not found.enabled:
        raise ValueError(f"the key in {path} is disabled: write another secret into the file")
    if Scope.ADMIN not in found.scopes:
        raise ValueError(
            f"the key in {path} is {found.key_id} ({found.name}), which has not the scope admin: "
            "write a secret of its own into the file"
        )
    return found


def _secret_in(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"cannot read the admin key file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the admin key file {path} is no ASCII text") from None
    if len(secret) < _MIN_SECRET or not secret.isprintable() or " " in secret:
        raise ValueError(
            f"the admin key file {path} holds no secret: one line of at least {_MIN_SECRET} "
            "characters without spaces, such as `openssl rand -hex 32` prints"
        )
    if mode & stat.S_IROTH:
        _LOG.warning("every user of this machine may read the admin key file %s", path)
    return secret


def new_key_id() -> str:
    """The id of a new key."""
    return f"key_{secrets.token_hex(6)}"


def new_secret() -> str:
    """The secret of a new key: what a client sends, and what is shown once."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
