"""The two clients behind one blocking surface, so that a test holds for both."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from kerneljudge.client import AsyncKernelJudgeClient, KernelJudgeClient

KINDS = ["sync", "async"]


class Blocking:
    """A client whose methods return results, and lists for its iterators."""

    def __init__(self, client: KernelJudgeClient | AsyncKernelJudgeClient) -> None:
        self.client = client
        self.runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        return self._blocking(found) if callable(found) else found

    def _blocking(self, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            answer = method(*arguments, **options)
            if inspect.isawaitable(answer):
                return self.runner.run(_awaited(answer))
            if isinstance(answer, AsyncIterator):
                return self.runner.run(_listed(answer))
            return list(answer) if isinstance(answer, Iterator) else answer

        return call


async def _awaited(answer: Any) -> Any:
    return await answer


async def _listed(answer: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in answer]


@contextlib.contextmanager
def blocking(kind: str, *arguments: Any, **options: Any) -> Iterator[Any]:
    """A client of one kind, opened with these arguments."""
    made = {"sync": KernelJudgeClient, "async": AsyncKernelJudgeClient}[kind]
    client = Blocking(made(*arguments, **options))
    try:
        yield client
    finally:
        client.close()
        client.runner.close()
