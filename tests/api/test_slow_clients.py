"""Clients that trickle, or do not read: none keeps a connection for ever, or disturbs others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from listening import listening
from scripted import ScriptedEvaluator
from starlette.types import Message, Receive, Scope, Send

from kerneljudge.api.slow_clients import ImpatientProtocol, TimelyBodies

pytestmark = pytest.mark.integration

BODY = json.dumps({"kernel": {"source_code": "def f(x): return x", "kernel_type": "torch"}})
HEAD = (
    "POST /evaluate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n"
)


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that waits for nobody long."""
    monkeypatch.setattr(TimelyBodies, "seconds", 0.5)
    monkeypatch.setattr(ImpatientProtocol, "header_seconds", 0.5)
    monkeypatch.setattr(ImpatientProtocol, "write_seconds", 0.5)
    with listening(ScriptedEvaluator()) as served:
        yield served


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    received = bytearray()
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


def body_of(response: bytes) -> Any:
    return json.loads(response.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("sent", ["", "POST /evaluate HTT", HEAD])
def test_headers_that_do_not_arrive_end_the_connection(url: str, sent: str) -> None:
    with connected(url) as connection:
        connection.sendall(sent.encode())
        assert everything(connection) == b""


@pytest.mark.parametrize(
    "sent",
    [
        "GET /",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX: ",
        "POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        "1\r\na\r\n0\r\nX: ",
    ],
    ids=["address", "header", "pipelined", "trailer"],
)
def test_headers_without_an_end_end_the_connection(sent: str) -> None:
    most = 64 * 2**20
    with listening(ScriptedEvaluator()) as url, connected(url) as connection:
        connection.sendall(sent.encode())
        poured = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while poured < most:
                poured += connection.send(b"a" * 2**16)
        assert poured < most
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


def test_a_body_may_be_longer_than_headers_may_and_come_in_small_chunks() -> None:
    body = json.dumps(
        {"kernel": {"source_code": "#" * 200_000 + "\nf = 1", "kernel_type": "torch"}}
    ).encode()
    with (
        listening(ScriptedEvaluator()) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        chunks = (body[at : at + 1000] for at in range(0, len(body), 1000))
        headers = {"Content-Type": "application/json"}
        answer = client.post("/evaluate", content=chunks, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize("sent", ["", BODY[:20]])
@pytest.mark.parametrize("path", ["/evaluate", "/compare", "/batch"])
def test_a_body_that_does_not_arrive_is_a_408(url: str, path: str, sent: str) -> None:
    with connected(url) as connection:
        head = HEAD.replace("/evaluate", path)
        connection.sendall(f"{head}\r\n{sent}".encode())
        response = everything(connection)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert body_of(response)["status"] == "error"
    assert "did not arrive within" in body_of(response)["error"]


def test_a_chunked_body_that_stops_is_a_408(url: str) -> None:
    head = HEAD.replace(f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked")
    with connected(url) as connection:
        connection.sendall(f"{head}\r\n5\r\n{BODY[:5]}\r\n".encode())
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.anyio
async def test_what_the_server_lets_a_body_wait_for_is_not_the_clients_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TimelyBodies, "seconds", 0.05)
    read: list[Message] = []

    async def application(_: Scope, receive: Receive, __: Send) -> None:
        read.append(await receive())
        await asyncio.sleep(0.1)  # such as for other large bodies
        read.append(await receive())

    async def receive() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def send(_: Message) -> None:
        raise AssertionError

    await TimelyBodies(application)({"type": "http"}, receive, send)
    assert len(read) == 2


@pytest.mark.parametrize("length", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_answered_before_it_has_arrived(length: str) -> None:
    head = HEAD.replace(f"Content-Length: {len(BODY)}", length)
    with listening(ScriptedEvaluator(), max_body_bytes=2000) as url, connected(url) as connection:
        connection.sendall(
            f"{head}\r\n".encode() + b"7d0\r\n" + b"a" * 2000 + b"\r\n5\r\naaaaa\r\n"
        )
        response = everything(connection)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert "larger than 2000 bytes" in body_of(response)["error"]


def test_a_client_that_hangs_up_within_its_body_leaves_nothing(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(f"{HEAD}\r\n{BODY[:20]}".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with httpx.Client(base_url=url, trust_env=False) as client:
        while 'status="499"' not in client.get("/metrics").text:
            pass
        assert not client.get("/jobs").json()["jobs"]


def test_a_client_that_does_not_read_is_disconnected(url: str) -> None:
    address = urlsplit(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        # More answers than there is room for on the way, of which none is read.
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)
        reset = select.poll()
        reset.register(connection, 0)
        # Whoever sends to a connection that is gone is told so.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not reset.poll(50):
                connection.sendall(b"\r\n")
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


def test_slow_clients_do_not_disturb_others(url: str) -> None:
    slow = [connected(url) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(f"{HEAD}\r\n{BODY[:20]}".encode())
        answer = httpx.post(f"{url}/evaluate", content=BODY, trust_env=False)
        assert answer.status_code == 200
        for connection in slow:
            assert everything(connection).startswith(b"HTTP/1.1 408 ")
    finally:
        for connection in slow:
            connection.close()
