"""What both clients are made of: where the server is, and who asks."""

from __future__ import annotations

import os
from typing import Any

import httpx

import kerneljudge
from kerneljudge.client.calls import Call
from kerneljudge.client.errors import AuthenticationError

__all__ = ["DEFAULT_URL", "http_options", "request_options", "server_url"]

DEFAULT_URL = "http://localhost:8000"
"""Where the server is, unless an argument or KERNELJUDGE_URL says otherwise."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_CONNECT_SECONDS = 10.0


def server_url(given: str | None) -> str:
    """The server's address, without a slash at its end."""
    return (given or os.environ.get("KERNELJUDGE_URL") or DEFAULT_URL).rstrip("/")


def http_options(base_url: str, api_key: str | None, client: str | None) -> dict[str, Any]:
    """The arguments of an `httpx.Client` or an `httpx.AsyncClient`.

    Raises `AuthenticationError` for an API key that can be none.
    """
    key = (api_key or os.environ.get("KERNELJUDGE_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        # Else the message of whoever cannot send it would have it.
        raise AuthenticationError(
            "the API key has characters that no key has: give one line, as `kerneljudge keys "
            "create` prints it"
        )
    headers = {"User-Agent": f"kerneljudge/{kerneljudge.__version__}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if client is not None:
        headers["X-KernelJudge-Client"] = client
    return {
        "base_url": base_url,
        "headers": headers,
        # A proxy for the outside world does not lead to this machine.
        "trust_env": httpx.URL(base_url).host not in _LOOPBACK,
        "limits": httpx.Limits(max_connections=None),
    }


def request_options(call: Call, seconds: float) -> dict[str, Any]:
    """The arguments of `request` and `stream`, of either."""
    return {
        "method": call.method,
        "url": call.path,
        "params": call.params,
        "headers": call.headers,
        "content": call.content,
        "timeout": httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
    }
