"""Server-sent events from the bytes of a stream, as the HTML standard reads them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["EventStream", "ServerSentEvent"]


@dataclass(frozen=True)
class ServerSentEvent:
    """One event."""

    name: str
    """What kind it is; `message` unless the server says."""
    data: str
    """Its text."""
    last_id: str
    """The id of the last event that had one: where to resume."""


class EventStream:
    """Fed with the bytes of one response, in any pieces."""

    def __init__(self) -> None:
        """At the beginning of a stream."""
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._text = ""
        self._name = ""
        self._data: list[str] = []
        self._last_id = ""

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that the bytes complete."""
        self._text += self._decoder.decode(chunk)
        # A carriage return at the end may be half of a line's end. Other characters at which
        # `splitlines` splits are text here.
        held = "\r" if self._text.endswith("\r") else ""
        text = self._text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        self._text = rest + held
        for line in lines:
            event = self._line(line)
            if event is not None:
                yield event

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._last_id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return ServerSentEvent(name, "\n".join(data), self._last_id) if data else None
