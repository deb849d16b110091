"""Length-prefixed frames over a Unix stream socket, with descriptors beside them.

A frame is a 4-byte big-endian length and that many bytes of UTF-8 JSON. The decoder trusts
nothing: a length over the bound, an end of stream inside a frame, text that is no JSON of the
expected schema are each a `ChannelBroken`, after which the peer is to be killed, not argued with.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

__all__ = [
    "CHANNEL_DESCRIPTOR",
    "MAX_FRAME_BYTES",
    "Channel",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelTimeout",
    "Decoder",
    "encode",
]

CHANNEL_DESCRIPTOR = 3
"""Where a forked process finds its channel."""

MAX_FRAME_BYTES = 64 * 2**20
"""The largest frame either side accepts: a source of the largest request fits."""

_HEADER = struct.Struct("!I")
_CHUNK = 1 << 18
_MESSAGE_SECONDS = 10.0
_MAX_DESCRIPTORS = 8

Incoming = TypeVar("Incoming")


class ChannelClosed(Exception):
    """The peer closed the channel between two frames."""


class ChannelBroken(Exception):
    """The peer sent what is no frame of the protocol."""


class ChannelTimeout(Exception):
    """Nothing complete came, or nothing more was taken, before the deadline."""


def encode(message: BaseModel) -> bytes:
    """One frame."""
    body = message.model_dump_json().encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ChannelBroken(f"a message of {len(body)} bytes is over the {MAX_FRAME_BYTES} allowed")
    return _HEADER.pack(len(body)) + body


class Decoder:
    """Cuts a byte stream into frame bodies, whatever the pieces it arrives in."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether the stream stands inside a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that `data` completes. Raises `ChannelBroken` on a length
        over the bound, before anything of that length is stored."""
        self._buffer += data
        bodies = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > self._max_frame_bytes:
                raise ChannelBroken(
                    f"a frame announces {length} bytes; at most {self._max_frame_bytes} are allowed"
                )
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
        return bodies


class Channel(Generic[Incoming]):
    """One end of a connection on which messages of one schema arrive.

    `incoming` is the type of the messages read here. Descriptors are received only where
    `takes_descriptors` is set: without it, the kernel closes whatever the peer attaches.
    """

    def __init__(
        self,
        sock: socket.socket,
        incoming: TypeAdapter[Incoming],
        *,
        takes_descriptors: bool,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._incoming = incoming
        self._takes_descriptors = takes_descriptors
        self._decoder = Decoder(max_frame_bytes)
        self._ready: deque[bytes] = deque()
        self._descriptors: list[int] = []
        self._pending_since: float | None = None

    def fileno(self) -> int:
        """The socket's descriptor, for poll."""
        return self._sock.fileno()

    def shutdown(self) -> None:
        """Ends the stream both ways: whoever waits on either end is told."""
        with contextlib.suppress(OSError):  # the peer may have been first
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket and every descriptor that nobody took."""
        for descriptor in self.take_descriptors():
            os.close(descriptor)
        self._sock.close()

    def take_descriptors(self, count: int | None = None) -> list[int]:
        """The first `count` of the descriptors received and not yet taken, or all of them.

        The caller closes them. They come in the order of the messages that they came beside.
        """
        count = len(self._descriptors) if count is None else count
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def send(
        self, message: BaseModel, descriptors: Sequence[int] = (), *, deadline: float | None = None
    ) -> None:
        """Sends one message. `deadline` is a `time.monotonic()` value.

        Raises `ChannelClosed` if the peer is gone and `ChannelTimeout` if it does not read.
        """
        data = memoryview(encode(message))
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            if descriptors
            else []
        )
        while data:
            try:
                sent = self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
                continue
            except (BrokenPipeError, ConnectionResetError) as error:
                raise ChannelClosed("the peer is gone") from error
            data = data[sent:]
            ancillary = []

    def receive(self, *, deadline: float | None = None) -> Incoming:
        """The next message. Raises `ChannelClosed`, `ChannelBroken` or `ChannelTimeout`."""
        while True:
            message = self.next()
            if message is not None:
                return message
            self._wait(select.POLLIN, deadline)

    def next(self) -> Incoming | None:
        """The next message if one has arrived whole, without waiting.

        Raises `ChannelClosed` or `ChannelBroken`.
        """
        while not self._ready:
            data = self._read()
            if data is None:
                self._check_pending()
                return None
            if not data:
                if self._decoder.pending:
                    raise ChannelBroken("the peer ended inside a message")
                raise ChannelClosed("the peer ended")
            self._ready.extend(self._decoder.feed(data))
            if not self._decoder.pending:
                self._pending_since = None
            elif self._ready or self._pending_since is None:
                self._pending_since = time.monotonic()
        try:
            return self._incoming.validate_json(self._ready.popleft())
        except ValidationError as error:
            raise ChannelBroken(
                "a message does not follow the protocol: "
                + "; ".join(
                    item["msg"] for item in error.errors(include_url=False, include_input=False)[:3]
                )
            ) from error

    def _check_pending(self) -> None:
        """A peer that has begun a message ends it: what follows a forged length never would."""
        if (
            self._pending_since is not None
            and time.monotonic() - self._pending_since > _MESSAGE_SECONDS
        ):
            raise ChannelBroken(
                f"a message was begun and not ended within {_MESSAGE_SECONDS:g} seconds"
            )

    def _read(self) -> bytes | None:
        """Bytes that have arrived, empty at the end of the stream, None if there are none yet."""
        try:
            if not self._takes_descriptors:
                return self._sock.recv(_CHUNK)
            data, descriptors, _, _ = socket.recv_fds(self._sock, _CHUNK, _MAX_DESCRIPTORS)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""
        self._descriptors += descriptors
        return data

    def _wait(self, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        if deadline is None:
            poll.poll()
        elif not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ChannelTimeout("the peer did not answer in time")
