"""When a request is sent again, and how much later. Knows no network and no clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx

__all__ = ["Retries", "retry_after"]

_LATER = frozenset({429, 502, 503, 504})
# What went wrong before anything was sent.
_MINE = httpx.UnsupportedProtocol | httpx.LocalProtocolError


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with jitter, for as long as nothing comes through."""

    attempts: int = 10
    """How many times in a row a request is sent again."""
    first: float = 0.5
    """Seconds before the first of them, at most; each later one waits twice as long."""
    longest: float = 10.0
    """Seconds that none of them waits longer, unless the server says so."""
    patience: float = 3600.0
    """Seconds above which what the server asks for is not waited for: no other attempt."""
    draw: Callable[[], float] = random.random
    """A number from 0 to 1 that spreads the clients of a server that comes back."""

    def delay(self, failures: int, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Seconds until the next attempt after that many failures in a row; None for no other.

        The last outcome was `outcome`. `Retry-After` is heeded.
        """
        if not self.worth_repeating(outcome) or failures > self.attempts:
            return None
        backoff = min(self.first * 2.0 ** (failures - 1), self.longest)
        wanted = retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        if wanted is not None and wanted > self.patience:
            return None
        # At least half of it, so that a crowd neither comes at once nor waits for nothing.
        return (wanted or 0.0) + backoff * (0.5 + 0.5 * self.draw())

    @staticmethod
    def worth_repeating(outcome: httpx.Response | httpx.RequestError) -> bool:
        """Whether the same request may do better later: the connection was lost, or the server
        is full, drains, or hides behind a proxy that does not reach it."""
        if isinstance(outcome, httpx.Response):
            return outcome.status_code in _LATER
        return not isinstance(outcome, _MINE)


def retry_after(response: httpx.Response) -> float | None:
    """The seconds that `Retry-After` names, where it names any."""
    text = response.headers.get("retry-after", "")
    # A date, its other form, is what no server of ours sends.
    return float(text) if text.isascii() and text.isdecimal() else None
