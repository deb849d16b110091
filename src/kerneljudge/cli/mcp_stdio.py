"""The Model Context Protocol over this process's standard input and output."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping

import anyio
from mcp.server.stdio import stdio_server

from kerneljudge.api.mcp import create_mcp_server
from kerneljudge.api.mcp.results import GpuMemory
from kerneljudge.cli.mcp_backend import RemoteBackend
from kerneljudge.cli.private import private_server
from kerneljudge.client import ServerError

__all__ = ["serve_stdio"]

_CHUNK = 65536
_NOT_TOLD = "the server's /health does not tell it; get_server_stats at that server's /mcp does"


async def serve_stdio(url: str | None, api_key: str | None) -> None:
    """Serves until standard input ends, or SIGINT or SIGTERM comes, from the server at `url` or
    from a private one."""
    async with contextlib.AsyncExitStack() as stack:
        if url is None:
            private = stack.enter_context(contextlib.closing(_PrivateServer()))
            backend = RemoteBackend(private.url, None, _own_memory)
        else:
            backend = RemoteBackend(_constant(url), api_key, _constant(_NOT_TOLD))
        stack.push_async_callback(backend.close)
        server = create_mcp_server(lambda _: backend)
        given = stack.enter_context(_standard_input())
        reading, writing = await stack.enter_async_context(stdio_server(stdin=given))
        await server.run(reading, writing, server.create_initialization_options())


@contextlib.contextmanager
def _standard_input() -> Iterator[anyio.AsyncFile[str]]:
    """Standard input, which also ends by a signal: a read of the real one cannot be cut short."""
    sending, receiving = socket.socketpair()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, sending.shutdown, socket.SHUT_WR)

    def copy() -> None:
        # After a signal nobody wants the rest.
        with contextlib.suppress(OSError):
            while chunk := os.read(sys.stdin.fileno(), _CHUNK):
                sending.sendall(chunk)
            sending.shutdown(socket.SHUT_WR)

    threading.Thread(target=copy, daemon=True).start()
    with (
        sending,
        receiving,
        receiving.makefile("r", encoding="utf-8", errors="replace") as text,
    ):
        yield anyio.wrap_file(text)


class _PrivateServer:
    """A server of this command's own. It starts while the protocol is served already: an agent
    waits for the answer to its first message for seconds, and a server may take a minute."""

    def __init__(self) -> None:
        """Begins to start it."""
        self._url: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._over = threading.Event()
        # A daemon, since nothing cuts a start short: the server ends when this process has ended.
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    async def url(self) -> str:
        """Where it is, once it has started. Raises `ServerError` where it does not start."""
        return await asyncio.shield(asyncio.wrap_future(self._url))

    def close(self) -> None:
        """Stops it."""
        self._over.set()
        if self._url.done():
            self._thread.join()

    def _keep(self) -> None:
        try:
            with private_server() as url:
                self._url.set_result(url)
                self._over.wait()
        except (OSError, ServerError) as error:
            self._url.set_exception(error)


async def _own_memory() -> Mapping[int, GpuMemory] | str:
    # A private server has this machine's GPUs, under the same CUDA_VISIBLE_DEVICES.
    from kerneljudge.api.mcp.gpus import gpu_memory

    return await asyncio.to_thread(gpu_memory)


def _constant(value: str) -> Callable[[], Awaitable[str]]:
    async def told() -> str:
        return value

    return told
