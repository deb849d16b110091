"""A real HTTP server around a scripted evaluator, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.api.slow_clients import ImpatientProtocol
from kerneljudge.service import ApiKey, JobService, Settings, SqlStore


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[object] | None = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]
        self.listening.set()


@contextlib.contextmanager
def listening(
    evaluator: ScriptedEvaluator, *, keys: Sequence[ApiKey] = (), **settings: Any
) -> Iterator[str]:
    """Serves the evaluator on a free port, with these API keys: its URL.

    The database is in memory, unless the settings name one.
    """
    chosen = Settings(**{"gpu_type": None, "database": "sqlite://", **settings})
    store = asyncio.run(SqlStore.open(chosen.database_url))
    for key in keys:
        asyncio.run(store.add_key(key))
    service = JobService(evaluator, store=store, settings=chosen)
    app = create_app(service, chosen, store)
    server = _Server(uvicorn.Config(app, http=ImpatientProtocol, port=0, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert server.listening.wait(30)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        asyncio.run(store.close())
