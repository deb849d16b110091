"""Server-sent events are read as the HTML standard says, however their bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.client.event_stream import EventStream, ServerSentEvent

pytestmark = pytest.mark.unit

# Text that a line may hold; U+2028 and the like are no line ends here.
LINES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))


def read(pieces: list[bytes]) -> list[ServerSentEvent]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)]


@given(
    events=st.lists(st.tuples(LINES.filter(bool), st.lists(LINES, min_size=1), LINES)),
    end=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(1, 7),
)
def test_events_are_the_same_in_pieces_of_any_size(
    events: list[tuple[str, list[str], str]], end: str, size: int
) -> None:
    lines = [
        line
        for name, data, last_id in events
        for line in (f"event: {name}", f"id: {last_id}", *(f"data: {one}" for one in data), "")
    ]
    raw = "".join(line + end for line in lines).encode()
    found = read([raw[start : start + size] for start in range(0, len(raw), size)])
    assert found == [
        ServerSentEvent(name, "\n".join(data), last_id) for name, data, last_id in events
    ]


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b": a comment\n\n", []),
        (b"data: whole\n\ndata: cut", [("message", "whole", "")]),
        (b"data\n\n", [("message", "", "")]),
        (b"data:no space\n\n", [("message", "no space", "")]),
        (b"data:  two spaces\n\n", [("message", " two spaces", "")]),
        (b"event: lost without data\n\ndata: x\n\n", [("message", "x", "")]),
        (b"id: 4\ndata: a\n\ndata: b\n\n", [("message", "a", "4"), ("message", "b", "4")]),
        (b"id: 4\nid: 5\0\ndata: a\n\n", [("message", "a", "4")]),
        (b"retry: 10\nnovelty: 1\ndata: a\n\n", [("message", "a", "")]),
        (b"\xef\xbb\xbfdata: after a mark\n\n", [("message", "after a mark", "")]),
        (b"data: \xff\n\n", [("message", "\ufffd", "")]),
    ],
)  # fmt: skip
def test_the_standard_s_corner_cases(raw: bytes, events: list[tuple[str, str, str]]) -> None:
    assert read([raw]) == [ServerSentEvent(*event) for event in events]
