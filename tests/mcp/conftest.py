"""A real HTTP server around a scripted evaluator, on the test's own event loop, and MCP clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import httpx2
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, Settings
from kerneljudge.service.store import KeyStore, SqlStore


@dataclass
class Serving:
    """A server that answers."""

    url: str
    """Where."""
    service: JobService
    """Its jobs."""
    evaluator: ScriptedEvaluator
    """What judges them."""

    def http(self, secret: str | None = None, **options: object) -> Client:
        """A client over HTTP, with an API key."""
        headers = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
        http = httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False)
        return Client(streamable_http_client(f"{self.url}/mcp", http_client=http), **options)

    def stdio(self, secret: str | None = None, **options: object) -> Client:
        """A client of `kerneljudge mcp`, which asks this server."""
        key = ["--api-key", secret] if secret is not None else []
        return stdio_client("--url", self.url, *key, **options)


def stdio_client(*arguments: str, **options: object) -> Client:
    """A client that starts `kerneljudge mcp`."""
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "kerneljudge", "mcp", *arguments], env=dict(os.environ)
    )
    return Client(command, **options)


Serve = Callable[..., AbstractAsyncContextManager[Serving]]


@pytest.fixture
def serve(tmp_path) -> Serve:
    """`async with serve(evaluator, keys, **settings) as serving`."""

    @contextlib.asynccontextmanager
    async def serving(
        evaluator: ScriptedEvaluator | None = None,
        keys: KeyStore | None = None,
        **given: object,
    ) -> AsyncIterator[Serving]:
        evaluator = evaluator if evaluator is not None else ScriptedEvaluator()
        settings = Settings(gpu_type=None, state_dir=tmp_path, **given)
        store = await SqlStore.open(settings.database_url)
        service = JobService(evaluator, store=store, settings=settings)
        app = create_app(service, settings, keys)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Serving(f"http://127.0.0.1:{port}", service, evaluator)
        finally:
            server.should_exit = True
            await running
            await store.close()

    return serving


@pytest.fixture
def private() -> Callable[..., Client]:
    """`kerneljudge mcp` with a server of its own."""
    return stdio_client
