"""A job's events as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, cast

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from kerneljudge.api.replies import Replies
from kerneljudge.api.responses import JobEventResponse
from kerneljudge.service import Draining, JobEvent, JobService

__all__ = ["event_stream"]

KEEP_ALIVE_SECONDS: Final = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the stream for dead."""


async def event_stream(
    service: JobService, replies: Replies, job_id: str, after: int
) -> AsyncIterator[bytes]:
    """The events with a number above `after`, past and coming, and `end` when the job has ended.

    Without an `end` the server is stopping: ask the next one for what follows the last event.
    """
    events = cast("AsyncGenerator[JobEvent]", service.events(job_id, after))
    coming: asyncio.Future[JobEvent | None] | None = None
    async with aclosing(events):
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(_next(events))
                done, _ = await asyncio.wait({coming}, timeout=KEEP_ALIVE_SECONDS)
                if not done:
                    yield KEEPALIVE_COMMENT
                    continue
                event, coming = coming.result(), None
                if event is None:
                    break
                yield _event(event)
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
    job = await service.get(job_id)
    if job is not None and job.state.finished:
        yield format_sse_event(event="end", data_str=replies.described(job).model_dump_json())


async def _next(events: AsyncIterator[JobEvent]) -> JobEvent | None:
    try:
        return await anext(events, None)
    except (Draining, KeyError):
        # The server stops, or the job has been dropped: there is no more to tell here.
        return None


def _event(event: JobEvent) -> bytes:
    data = JobEventResponse(
        number=event.number,
        at=event.at,
        status=event.state.value,
        phase=event.phase,
        message=event.message,
    )
    return format_sse_event(event="state", id=str(event.number), data_str=data.model_dump_json())
