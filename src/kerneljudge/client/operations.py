"""What each method of the clients does, as generators that do no input or output themselves.

The synchronous and the asynchronous client run the same ones; see `steps` for what they yield.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import httpx

from kerneljudge.api import (
    CleanupResponse,
    CompareResponse,
    EvaluateResponse,
    HealthResponse,
    JobEventResponse,
    JobListResponse,
    JobResponse,
    JobSummary,
    StatsResponse,
)
from kerneljudge.client.calls import (
    Call,
    Submittable,
    cancel_call,
    cleanup_call,
    events_call,
    health_call,
    job_call,
    jobs_call,
    stats_call,
    submit_call,
)
from kerneljudge.client.decoding import ENDED, Judged, decode, failure_of, read_json, result_of
from kerneljudge.client.errors import JobTimeout, ServerError, ServerUnreachable
from kerneljudge.client.event_stream import EventStream, ServerSentEvent
from kerneljudge.client.retries import Retries
from kerneljudge.client.steps import Emit, Open, Operation, Read, Send, Series, Sleep
from kerneljudge.schema import KernelCode

__all__ = [
    "CompareOptions",
    "EvaluateOptions",
    "JobFilters",
    "Kernel",
    "Operations",
    "SubmitOptions",
]

Kernel = KernelCode | Mapping[str, Any]
"""A kernel, or a dict of the same fields."""

_Result = TypeVar("_Result", EvaluateResponse, CompareResponse)

_POLL_SECONDS = 20.0
_PAUSE_SECONDS = 1.0
# Where little time is left, what is asked last still gets an answer.
_LEAST_SECONDS = 5.0
_QUIET_SECONDS = 60.0
_PAGE = 100


class SubmitOptions(TypedDict, total=False):
    """What a submission says beside its request; what is absent or None is left to the server."""

    priority: int | None
    """Higher goes first among the client's own jobs, from -10 to 10."""
    deadline: float | None
    """Seconds from submission after which the result is of no use: then the job fails."""
    idempotency_key: str | None
    """A later submission with the same key is the same job; drawn if absent."""


class EvaluateOptions(SubmitOptions, total=False):
    """What a request may say beside its kernel."""

    num_warmup: int | None
    """Untimed runs."""
    num_checks: int | None
    """Correctness trials."""
    seed: int | None
    """The seed of all values."""


class CompareOptions(EvaluateOptions, total=False):
    """What a request may say beside its kernels."""

    atol: float | None
    """Absolute tolerance."""
    rtol: float | None
    """Relative tolerance."""


class JobFilters(TypedDict, total=False):
    """Which jobs are listed: those that fit every given one."""

    status: str | Sequence[str] | None
    """In this state, or in one of these."""
    kind: str | None
    """`evaluate` or `compare`."""
    verdict: str | None
    """With this verdict."""
    client: str | None
    """Whose share they take."""
    created_after: float | None
    """Submitted then or later, in seconds since the epoch."""
    created_before: float | None
    """Submitted earlier."""


class Operations:
    """The operations of one client."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        queue_timeout: float,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """For a server at `base_url`, which stands in messages alone."""
        self._base_url = base_url
        self._timeout = timeout
        self._queue_timeout = queue_timeout
        self._retries = retries
        self._clock = clock
        # Nobody waits for a server to come back that has never been there.
        self._reached = False

    def evaluate(
        self,
        kernel: Kernel,
        num_trials: int,
        timeout: float | None,
        *,
        num_warmup: int | None = None,
        num_checks: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Operation[EvaluateResponse]:
        """Submits a kernel and waits for its result."""
        body = {"kernel": kernel, "num_trials": num_trials}
        given = {"num_warmup": num_warmup, "num_checks": num_checks, "seed": seed}
        return self._judge(EvaluateResponse, body, given, timeout, options)

    def compare(
        self,
        ref_kernel: Kernel,
        custom_kernel: Kernel,
        num_trials: int,
        timeout: float | None,
        *,
        num_warmup: int | None = None,
        num_checks: int | None = None,
        seed: int | None = None,
        atol: float | None = None,
        rtol: float | None = None,
        **options: Any,
    ) -> Operation[CompareResponse]:
        """Submits a comparison and waits for its result."""
        body = {"ref_kernel": ref_kernel, "custom_kernel": custom_kernel, "num_trials": num_trials}
        given = {
            "num_warmup": num_warmup,
            "num_checks": num_checks,
            "seed": seed,
            "atol": atol,
            "rtol": rtol,
        }
        return self._judge(CompareResponse, body, given, timeout, options)

    def submit(self, request: Submittable, **options: Any) -> Operation[JobResponse]:
        """Submits a job: the job as it stands then."""
        return decode((yield from self.answer(submit_call(request, **options))), JobResponse)

    def wait(self, job_id: str, timeout: float | None = None) -> Operation[Judged]:
        """Waits until a job has ended: its result."""
        until = None if timeout is None else self._clock() + timeout
        return result_of((yield from self._ended(job_id, until)))

    def stream(self, job_id: str) -> Series[JobEventResponse | JobResponse]:
        """The events of a job, past and coming; at last the job itself."""
        failures = 0
        last: str | None = None
        while True:
            outcome: Any = yield Open(events_call(job_id, last), _QUIET_SECONDS)
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                self._reached = True
                source, events = str(outcome.url), EventStream()
                while True:
                    outcome = yield Read()
                    if not isinstance(outcome, bytes):
                        break
                    if not outcome:
                        outcome = httpx.RemoteProtocolError("the events ended before the job")
                        break
                    failures = 0
                    for event in events.feed(outcome):
                        # Of ours it is a number; what else there is may be no header.
                        if event.last_id.isascii() and event.last_id.isdecimal():
                            last = event.last_id
                        told = _event(event, source)
                        if told is not None:
                            yield Emit(told)
                        if isinstance(told, JobResponse):
                            return
            failures += 1
            yield Sleep(self._pause(events_call(job_id, last), failures, outcome, None))

    def job(self, job_id: str) -> Operation[JobResponse]:
        """A job as it stands."""
        return decode((yield from self.answer(job_call(job_id))), JobResponse)

    def jobs(self, limit: int | None, filters: JobFilters) -> Series[JobSummary]:
        """The jobs that fit, newest first, page by page."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            response = yield from self.answer(jobs_call(filters, size, cursor))
            page = decode(response, JobListResponse)
            for job in page.jobs:
                yield Emit(job)
            cursor, left = page.next_cursor, None if left is None else left - len(page.jobs)
            if cursor is None:
                return

    def cancel(self, job_id: str) -> Operation[JobResponse]:
        """Cancels a job."""
        return decode((yield from self.answer(cancel_call(job_id))), JobResponse)

    def stats(self) -> Operation[StatsResponse]:
        """Counts and times."""
        return decode((yield from self.answer(stats_call())), StatsResponse)

    def health(self) -> Operation[HealthResponse]:
        """The server's health."""
        return decode((yield from self.answer(health_call())), HealthResponse)

    def cleanup(self) -> Operation[CleanupResponse]:
        """Drops old jobs."""
        return decode((yield from self.answer(cleanup_call())), CleanupResponse)

    def answer(
        self, call: Call, until: float | None = None, final: frozenset[int] = frozenset()
    ) -> Operation[httpx.Response]:
        """The answer to a call, whatever it says; sent again for as long as that may help.

        An answer with a `final` status is not waited out. Raises where nothing else came.
        """
        failures = 0
        while True:
            left = call.seconds if until is None else until - self._clock()
            outcome: Any = yield Send(call, min(call.seconds, max(left, _LEAST_SECONDS)))
            if isinstance(outcome, httpx.Response):
                self._reached = True
                if outcome.status_code in final or not self._retries.worth_repeating(outcome):
                    return outcome
            failures += 1
            yield Sleep(self._pause(call, failures, outcome, until))

    def poll(self, job_id: str, wait: float, until: float | None = None) -> Operation[JobResponse]:
        """A job, which is given `wait` seconds to end."""
        asked = self._clock()
        job = decode((yield from self.answer(job_call(job_id, wait), until)), JobResponse)
        if job.status not in ENDED and self._clock() - asked < wait / 2:
            # A server that is about to stop does not wait: no reason to hurry it.
            yield Sleep(_PAUSE_SECONDS)
        return job

    def _judge(
        self,
        model: type[_Result],
        body: dict[str, Any],
        given: Mapping[str, Any],
        timeout: float | None,
        options: Mapping[str, Any],
    ) -> Operation[_Result]:
        seconds = self._timeout if timeout is None else timeout
        body["timeout"] = seconds
        body |= {name: value for name, value in given.items() if value is not None}
        until = self._clock() + seconds + self._queue_timeout
        call = submit_call(body, **options)
        job = decode((yield from self.answer(call, until)), JobResponse)
        if job.status not in ENDED:
            job = yield from self._ended(job.job_id, until)
        result = result_of(job)
        if not isinstance(result, model):
            raise ServerError(f"the server answered with a result of {job.kind}, not {model}")
        return result

    def _ended(self, job_id: str, until: float | None) -> Operation[JobResponse]:
        while True:
            left = _POLL_SECONDS if until is None else max(until - self._clock(), 0.0)
            job = yield from self.poll(job_id, min(left, _POLL_SECONDS), until)
            if job.status in ENDED:
                return job
            if until is not None and self._clock() >= until:
                raise JobTimeout(
                    f"the job {job_id} has not ended in the time to wait for it: it is "
                    f"{job.status}, and goes on",
                    job,
                )

    def _pause(
        self,
        call: Call,
        failures: int,
        outcome: httpx.Response | httpx.RequestError,
        until: float | None,
    ) -> float:
        """Seconds until the call is to be sent again. Raises where it is not."""
        refused = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
        hopeless = not call.repeatable or (refused and not self._reached)
        delay = None if hopeless else self._retries.delay(failures, outcome)
        if delay is not None and (until is None or self._clock() + delay < until):
            return delay
        if isinstance(outcome, httpx.Response):
            raise failure_of(outcome)
        raise self._unreachable(call, outcome) from outcome

    def _unreachable(self, call: Call, error: httpx.RequestError) -> ServerUnreachable:
        if isinstance(error, httpx.ReadTimeout):
            return ServerUnreachable(f"{self._base_url} gave no answer to {call} in time")
        if isinstance(error, httpx.UnsupportedProtocol):
            return ServerUnreachable(
                f"{self._base_url} is no address of a server: it begins with http:// or https://"
            )
        reason = str(error) or type(error).__name__
        return ServerUnreachable(
            f"cannot reach the server at {self._base_url}: {reason}; is it running "
            "(`kerneljudge serve`), and is this its address?"
        )


def _event(event: ServerSentEvent, source: str) -> JobEventResponse | JobResponse | None:
    """What an event says; None for one of a kind that only a newer server knows."""
    if event.name == "state":
        return read_json(event.data, JobEventResponse, source, 200)
    return read_json(event.data, JobResponse, source, 200) if event.name == "end" else None
