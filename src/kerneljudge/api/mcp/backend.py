"""What the tools ask of a server, whether it is this process or another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kerneljudge.api.mcp.results import ServerStats
from kerneljudge.api.responses import JobResponse
from kerneljudge.schema import JobRequest, Phase

__all__ = ["Backend", "Mistake", "NotTaken", "Step"]

Mistake = tuple[Sequence[int | str], str]
"""The path of a field, and what is wrong with it."""


class NotTaken(Exception):
    """The server does not do what it is asked; the message says why, and what to do."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """`retry_after`: seconds after which the same call may succeed; None if it will not."""
        super().__init__(message)
        self.mistakes = list(mistakes)
        """The fields of the request that the server does not take."""
        self.job_id: str | None = None
        """The job, where there is one already."""
        self.retry_after = retry_after
        """Seconds after which the same call may succeed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened to a job."""

    status: str
    """The state that it then had."""
    phase: Phase | None = None
    """The phase that it entered, where a judge works on it."""
    message: str | None = None
    """What else there is to say, such as why it was queued again."""


class Backend(Protocol):
    """A server, as one caller may use it. Every method raises `NotTaken` where the caller may not,
    or the server does not answer."""

    async def submit(self, request: JobRequest) -> str:
        """Accepts a job: its id."""

    def steps(self, job_id: str) -> AsyncIterator[Step]:
        """What happened to a job and happens to it; ends with the job."""

    async def ended(self, job_id: str) -> JobResponse:
        """A job of the caller's, once it has ended."""

    async def job(self, job_id: str) -> JobResponse | None:
        """A job as it stands; None where the caller has no such job."""

    async def cancel(self, job_id: str) -> None:
        """Ends a job that nobody waits for any more."""

    async def stats(self) -> ServerStats:
        """The server's health, its GPUs and its jobs."""
