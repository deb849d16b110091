"""The message channel: whatever arrives, it is a message, or a named fault."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerneljudge.runtime.channel import (
    MAX_FRAME_BYTES,
    Channel,
    ChannelBroken,
    ChannelClosed,
    ChannelTimeout,
    Decoder,
    encode,
)
from kerneljudge.runtime.messages import (
    Attached,
    Failed,
    FromRunner,
    Profiled,
    Ran,
    Ready,
    SandboxLayer,
)
from kerneljudge.runtime.values import TensorMeta, strip
from kerneljudge.schema import Phase

pytestmark = pytest.mark.unit

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
numbers = st.integers(0, 2**31)
metas = st.builds(
    TensorMeta,
    dtype=st.sampled_from(["float32", "bfloat16", "float8_e5m2", "bool"]),
    shape=st.lists(st.integers(0, 2**40), max_size=6),
    device=st.sampled_from(["cuda", "cpu"]),
    alias=st.none() | st.integers(0, 10),
)
messages = st.one_of(
    st.builds(Attached, request=numbers),
    st.builds(
        Ready,
        layers=st.lists(
            st.builds(
                SandboxLayer, name=st.text(max_size=10), active=st.booleans(), reason=st.none()
            ),
            max_size=4,
        ),
    ),
    st.builds(
        Profiled,
        request=numbers,
        clock=st.sampled_from(["cuda_graph", "cuda_events", "monotonic"]),
        fallback_reason=st.none() | st.text(max_size=50),
        samples_ms=st.lists(st.floats(0, 1e6), max_size=20),
    ),
    st.builds(
        Failed,
        request=numbers,
        kind=st.sampled_from(["refused", "compile_error", "runtime_error", "out_of_memory"]),
        phase=st.sampled_from(list(Phase)),
        message=st.text(max_size=100),
        hint=st.none() | st.text(max_size=20),
        traceback=st.none() | st.text(max_size=100),
    ),
    st.builds(
        Ran,
        request=numbers,
        value=plain.map(lambda value: strip(value, lambda _: False)[0]),
        tensors=st.lists(metas, max_size=3),
    ),
)


@contextmanager
def connected(*, takes_descriptors: bool = False) -> Iterator[tuple[socket.socket, Channel[Any]]]:
    """A raw socket, and a channel that reads what a runner may say from its other end."""
    raw, other = socket.socketpair()
    channel = Channel(other, FromRunner, takes_descriptors=takes_descriptors)
    with raw:
        yield raw, channel
        channel.close()


def soon() -> float:
    return time.monotonic() + 5


def drain(channel: Channel[Any]) -> None:
    while True:
        channel.receive(deadline=soon())


def flood(channel: Channel[Any], message: Any) -> None:
    while True:
        channel.send(message, deadline=time.monotonic() + 0.05)


@given(st.lists(messages, min_size=1, max_size=4), st.lists(st.integers(1, 50), max_size=40))
@settings(deadline=None)
def test_messages_survive_any_fragmentation(sent: list[Any], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)
    decoder = Decoder()
    bodies = []
    for cut in cuts:
        bodies += decoder.feed(stream[:cut])
        stream = stream[cut:]
    bodies += decoder.feed(stream)
    assert [FromRunner.validate_json(body) for body in bodies] == sent
    assert not decoder.pending


@given(messages)
@settings(deadline=None, max_examples=50)
def test_a_message_crosses_a_socket_unchanged(message: Any) -> None:
    with connected() as (raw, channel):
        raw.sendall(encode(message))
        assert channel.receive(deadline=soon()) == message


@given(messages, st.data())
@settings(deadline=None, max_examples=50)
def test_a_peer_that_dies_at_any_byte_of_a_message_is_told_from_one_that_ends(
    message: Any, data: st.DataObject
) -> None:
    frame = encode(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with connected() as (raw, channel):
        raw.sendall(frame[:cut])
        raw.close()
        with pytest.raises(ChannelBroken if cut else ChannelClosed):
            channel.receive(deadline=soon())


@given(st.binary(min_size=1, max_size=200))
@settings(deadline=None, max_examples=100)
def test_garbage_is_never_a_message_and_never_another_exception(garbage: bytes) -> None:
    with connected() as (raw, channel):
        raw.sendall(garbage)
        raw.close()
        with pytest.raises((ChannelBroken, ChannelClosed)):
            drain(channel)


def test_a_frame_over_the_bound_is_refused_before_it_is_stored() -> None:
    decoder = Decoder()
    with pytest.raises(ChannelBroken, match="at most"):
        decoder.feed(struct.pack("!I", MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type":"exec","request":1}',
        b'{"type":"attached"}',
        b'{"type":"attached","request":1,"more":2}',
        b'{"type":"profiled","request":1,"clock":"monotonic","samples_ms":[-1.0]}',
        b'{"type":"profiled","request":1,"clock":"monotonic","samples_ms":[NaN]}',
        b'{"type":"ran","request":1,"value":{"kind":"tensor","index":-1},"tensors":[]}',
        b'{"type":"ran","request":1,"value":{"kind":"object"},"tensors":[]}',
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94",
        b"[" * 10_000,
    ],
)
def test_json_of_another_schema_is_a_broken_channel(body: bytes) -> None:
    with connected() as (raw, channel):
        raw.sendall(struct.pack("!I", len(body)) + body)
        with pytest.raises(ChannelBroken):
            channel.receive(deadline=soon())


def test_descriptors_arrive_in_order_beside_their_messages() -> None:
    with connected(takes_descriptors=True) as (raw, channel):
        sender = Channel(raw.dup(), FromRunner, takes_descriptors=False)
        pipes = [os.pipe() for _ in range(2)]
        for number, (read, _) in enumerate(pipes):
            sender.send(Attached(request=number), [read], deadline=soon())
        for number, (_, write) in enumerate(pipes):
            assert channel.receive(deadline=soon()) == Attached(request=number)
            (received,) = channel.take_descriptors(1)
            os.write(write, str(number).encode())
            assert os.read(received, 10) == str(number).encode()
            os.close(received)
        sender.close()


def test_a_peer_cannot_hand_over_descriptors_that_were_not_asked_for() -> None:
    with connected() as (raw, channel):
        sender = Channel(raw.dup(), FromRunner, takes_descriptors=False)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with open(os.devnull) as file:
                sender.send(Attached(request=1), [file.fileno()], deadline=soon())
            channel.receive(deadline=soon())
        assert len(os.listdir("/proc/self/fd")) == before
        assert channel.take_descriptors() == []
        sender.close()


def test_silence_and_a_peer_that_does_not_read_are_timeouts() -> None:
    with connected() as (_, channel):
        with pytest.raises(ChannelTimeout):
            channel.receive(deadline=time.monotonic() + 0.05)
        large = Failed(
            request=1,
            kind="runtime_error",
            phase=Phase.LOAD,
            message="x" * 200_000,
            traceback="y" * 200_000,
        )
        with pytest.raises(ChannelTimeout):
            flood(channel, large)


def test_a_large_message_passes_a_small_socket_buffer() -> None:
    with connected() as (raw, channel):
        sender = Channel(raw.dup(), FromRunner, takes_descriptors=False)
        message = Ran(request=7, value=strip(["text" * 1000] * 500, lambda _: False)[0], tensors=[])
        thread = threading.Thread(target=lambda: sender.send(message, deadline=soon()))
        thread.start()
        assert channel.receive(deadline=soon()) == message
        thread.join()
        sender.close()
