"""What an operation asks of the client that runs it: the only things that touch a network or a
clock."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kerneljudge.client.calls import Call

__all__ = ["Emit", "Open", "Operation", "Read", "Send", "Series", "Sleep"]

_Value = TypeVar("_Value", covariant=True)


@dataclass(frozen=True)
class Send:
    """Send a request; replied with its `httpx.Response`, or the `httpx.RequestError` instead."""

    call: Call
    """The request."""
    seconds: float
    """How long to wait for the answer."""


@dataclass(frozen=True)
class Open:
    """Like `Send`, but leaves the body of a successful answer to `Read`; closes the one before."""

    call: Call
    """The request."""
    seconds: float
    """How long to wait for the answer, and then for each piece of its body."""


@dataclass(frozen=True)
class Read:
    """Replied with the next bytes of what was opened last, empty at its end, or the
    `httpx.RequestError` instead."""


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float
    """How long."""


@dataclass(frozen=True)
class Emit(Generic[_Value]):
    """One value of a series."""

    value: _Value
    """The value."""


Operation = Generator[Send | Sleep, Any, _Value]
"""Yields steps, is sent what they are replied with, and returns its result."""
Series = Generator[Send | Sleep | Open | Read | Emit[_Value], Any, None]
"""An operation with any number of results."""
