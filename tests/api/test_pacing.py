"""A burst of requests leaves room for others."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from kerneljudge.api.pacing import Paced

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Recorder:
    """An application that notes in which turn of the loop each request begins."""

    def __init__(self) -> None:
        self.turn = 0
        self.begun: list[tuple[str, int]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append((scope["path"], self.turn))

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


def request(path: str, method: str = "POST") -> dict[str, str]:
    return {"type": "http", "method": method, "path": path}


async def nothing(*_: Any) -> None:
    """Neither received nor sent."""


async def test_posts_begin_a_few_a_turn_in_order_and_others_at_once() -> None:
    recorder = Recorder()
    paced = Paced(recorder)
    counting = asyncio.create_task(recorder.count_turns())
    posts = [
        asyncio.create_task(paced(request(str(number)), nothing, nothing)) for number in range(100)
    ]
    await asyncio.sleep(0)
    await paced(request("/health", "GET"), nothing, nothing)
    asked = recorder.turn
    await asyncio.gather(*posts)
    counting.cancel()

    assert dict(recorder.begun)["/health"] == asked
    begun = [(path, turn) for path, turn in recorder.begun if path != "/health"]
    assert [path for path, _ in begun] == [str(number) for number in range(100)]
    by_turn = [len(list(group)) for _, group in itertools.groupby(begun, key=lambda one: one[1])]
    assert max(by_turn) <= 16  # a turn as counted here may see the end of one and the next
    assert len(by_turn) >= 6


async def test_a_request_that_is_given_up_while_it_waits_holds_up_no_other() -> None:
    recorder = Recorder()
    paced = Paced(recorder)
    posts = [
        asyncio.create_task(paced(request(str(number)), nothing, nothing)) for number in range(30)
    ]
    await asyncio.sleep(0)
    for task in posts[10:20]:
        task.cancel()
    await asyncio.wait(posts)
    assert {path for path, _ in recorder.begun} == {
        str(number) for number in range(30) if not 10 <= number < 20
    }


async def test_after_a_burst_a_request_begins_at_once() -> None:
    recorder = Recorder()
    paced = Paced(recorder)
    await asyncio.gather(*(paced(request(str(number)), nothing, nothing) for number in range(20)))
    for _ in range(3):
        await asyncio.sleep(0)
    task = asyncio.create_task(paced(request("late"), nothing, nothing))
    await asyncio.sleep(0)
    assert task.done()
