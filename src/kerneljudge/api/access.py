"""Who may ask what of the HTTP interface: keys, scopes and rates, checked before anything else."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Callable
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from kerneljudge.schema import JobRequest
from kerneljudge.service.access import ApiKey, Caller, KeyRing, RateLimiter, Scope
from kerneljudge.service.records import ANONYMOUS, Submission
from kerneljudge.service.settings import Settings
from kerneljudge.service.store.protocol import KeyStore

__all__ = ["COOKIE", "Access", "Denied", "is_loopback", "of_own_page"]

COOKIE: Final = "kj_key"
"""The cookie in which the page keeps a key; no script can read it."""
CLIENT_HEADER: Final = "X-KernelJudge-Client"
"""Names whose share a job takes, on a server without keys."""

_MAX_CLIENT = 100
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_FOREIGN = "a page of another site may not do this"
_ADVICE = "send it as `Authorization: Bearer kj_…` or as `X-API-Key`"

# What the OpenAPI document says of keys; the headers themselves are read by `_secret`.
_BEARER = HTTPBearer(
    scheme_name="bearer",
    description="An API key, where the server has any.",
    auto_error=False,
)
_HEADER = APIKeyHeader(
    name="X-API-Key",
    scheme_name="header",
    description="An API key, where the server has any.",
    auto_error=False,
)


class Denied(HTTPException):
    """A request that its sender may not make: 401, 403 or 429, or 400 for a name that is none."""

    def __init__(
        self, status_code: int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        """`message` says what to do, and holds nothing of any secret."""
        super().__init__(status_code, message, headers)


class Access:
    """Decides who sends a request, and what they may do.

    From the first key of its store on, every request needs an enabled key; what is known of the
    keys is at most a second old. Without a store, or with one that has had no key, everyone may do
    everything.
    """

    def __init__(self, keys: KeyStore | None, settings: Settings) -> None:
        """`keys` is None for a server that never has keys, such as a private one."""
        self.ring: KeyRing | None = KeyRing(keys) if keys is not None else None
        """The keys, where there is a store of them."""
        self._max_unfinished = settings.max_unfinished_per_key
        self._rates = RateLimiter()

    async def caller_of(self, request: Request) -> Caller:
        """Whoever sends the request. Raises `Denied`.

        The key comes as `Authorization: Bearer`, as `X-API-Key`, or in the page's cookie.
        """
        caller = await self.optional(request)
        if caller is None:
            raise Denied(401, f"this server needs an API key: {_ADVICE}", _CHALLENGE)
        return caller

    async def optional(self, request: Request) -> Caller | None:
        """As `caller_of`, but None where a key is needed and none is given.

        A dependency of the few paths that tell a little to everyone.
        """
        known: Caller | None = getattr(request.state, "caller", None)
        if known is not None:
            return known
        _refuse_other_sites(request)
        if self.ring is None or not await self.ring.needed():
            _refuse_rebinding(request)
            caller = Caller(None, _client(request))
        else:
            secret = _secret(request)
            if secret is None:
                return None
            caller = await self._holder(self.ring, secret)
        request.state.caller = caller
        return caller

    async def key_of(self, secret: str) -> ApiKey | None:
        """The enabled key with this secret, or None: for the page's login."""
        return await self.ring.find(secret) if self.ring is not None else None

    async def needed(self) -> bool:
        """Whether requests need a key."""
        return self.ring is not None and await self.ring.needed()

    def require(self, scope: Scope) -> Callable[..., Awaitable[Caller]]:
        """A dependency that gives the `Caller`, who may do what the scope allows."""

        async def permitted(
            request: Request,
            _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
            _header: Annotated[str | None, Security(_HEADER)],
        ) -> Caller:
            caller = await self.caller_of(request)
            if not caller.may(scope):
                assert caller.key is not None
                has = ", ".join(sorted(caller.key.scopes)) or "none"
                raise Denied(403, f"this takes the scope {scope}, and this API key has {has}")
            return caller

        return permitted

    def submission(
        self,
        caller: Caller,
        request: JobRequest,
        *,
        priority: int = 0,
        deadline: float | None = None,
        idempotency_key: str | None = None,
    ) -> Submission:
        """A request as the caller submits it. Raises `Denied` for a priority beyond its key's."""
        if priority > caller.max_priority:
            raise Denied(
                403,
                f"priority {priority} is above the highest of this API key, {caller.max_priority}",
            )
        key = caller.key
        return Submission(
            request,
            client=caller.client,
            key_id=caller.key_id,
            priority=priority,
            deadline=deadline,
            idempotency_key=idempotency_key,
            max_unfinished=None if key is None else key.max_unfinished or self._max_unfinished,
        )

    async def _holder(self, ring: KeyRing, secret: str) -> Caller:
        key = await ring.find(secret)
        if key is None:
            raise Denied(
                401,
                "this API key is unknown here, or disabled",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        seconds = self._rates.take(key)
        if seconds > 0:
            raise Denied(
                429,
                f"this API key may send {key.requests_per_minute} requests a minute: "
                f"try again in {seconds:.1f} s",
                {"Retry-After": str(math.ceil(seconds))},
            )
        return Caller(key, key.key_id)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def of_own_page(request: Request) -> bool:
    """Whether a page of this very server has its browser send the request."""
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        return fetched == "same-origin"
    # Browsers send it with every POST; behind plain HTTP it is all that they send.
    origin = request.headers.get("origin", "")
    return origin.partition("://")[2] == request.headers.get("host")


def _secret(request: Request) -> str | None:
    """What the request says its key is, if it says anything. Raises `Denied` for another kind."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() != "bearer" or not credentials.strip():
            raise Denied(401, f"an API key is no such authorization: {_ADVICE}", _CHALLENGE)
        return credentials.strip()
    if header := request.headers.get("x-api-key"):
        return header
    cookie = request.cookies.get(COOKIE)
    if cookie is not None and request.method not in _SAFE_METHODS and not of_own_page(request):
        # Browsers send it for pages of the same site too, such as those on another port.
        raise Denied(403, f"{_FOREIGN} with the page's cookie: {_ADVICE}")
    return cookie


def _client(request: Request) -> str:
    name = request.headers.get(CLIENT_HEADER)
    if name is None:
        return ANONYMOUS
    if not 0 < len(name) <= _MAX_CLIENT or not name.isprintable():
        raise Denied(
            400, f"{CLIENT_HEADER} must be 1 to {_MAX_CLIENT} printable characters of its client"
        )
    return name


def _refuse_other_sites(request: Request) -> None:
    """Browsers send a local server whatever any page tells them to; they also say so."""
    if (
        request.method not in _SAFE_METHODS
        and request.headers.get("sec-fetch-site") == "cross-site"
    ):
        raise Denied(403, _FOREIGN)


def _refuse_rebinding(request: Request) -> None:
    """A web page can have its own name lead to this machine. Without keys, only local names and
    pages may pass."""
    named = {"Host": f"//{request.headers.get('host', '')}"}
    if "origin" in request.headers:
        named["Origin"] = request.headers["origin"]
    for header, url in named.items():
        if not is_loopback(_host(url)):
            raise Denied(
                403,
                f"the {header} of this request is not this machine, and this server has no API "
                "keys: call it as localhost, or give it keys",
            )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # such as `http://[`
        return ""
