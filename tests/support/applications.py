"""The application around a scripted evaluator, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, KeyStore, Settings, SqlStore


@asynccontextmanager
async def application(
    evaluator: ScriptedEvaluator, keys: KeyStore | None = None, **settings: Any
) -> AsyncIterator[tuple[FastAPI, JobService]]:
    """The application and its service, which runs, with a database in memory."""
    chosen = Settings(**{"gpu_type": None, **settings})
    store = await SqlStore.open("sqlite://")
    try:
        async with JobService(evaluator, store=store, settings=chosen) as service:
            yield create_app(service, chosen, keys if keys is not None else store), service
    finally:
        await store.close()


def client_of(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A client of the application. Its answers come whole."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **options)
