"""Waiting for the sake of a client, as long as there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from kerneljudge.api.parameters import no_job
from kerneljudge.service import Draining, Job, JobService

__all__ = ["ClientGone", "end_of", "unless_gone"]

_Result = TypeVar("_Result")


class ClientGone(Exception):
    """The client has disconnected: nobody reads the answer."""


async def unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """The result of `work`, which is cancelled where the client disconnects first.

    Raises `ClientGone` then. The request's body has been read, or is of no use.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def end_of(service: JobService, job_id: str, timeout: float | None = None) -> Job:
    """The job, once it has ended; as it stands after `timeout` seconds, or where the server stops
    first. Raises 404 for one that is dropped meanwhile."""
    try:
        return await service.wait(job_id, timeout)
    except Draining:
        job = await service.get(job_id)
        if job is None:
            raise no_job(job_id) from None
        return job
    except KeyError:
        raise no_job(job_id) from None


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
