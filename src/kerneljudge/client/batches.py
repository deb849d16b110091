"""Many jobs at once: submitted in chunks, waited for in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kerneljudge.api import BatchAcceptedResponse, JobResponse
from kerneljudge.client.calls import Submittable, batch_call, request_body, submit_call
from kerneljudge.client.decoding import ENDED, Judged, decode, result_of
from kerneljudge.client.errors import (
    AuthenticationError,
    KernelJudgeError,
    RateLimited,
    RequestError,
    ServerError,
    ServerUnreachable,
)
from kerneljudge.client.operations import Operations
from kerneljudge.client.steps import Operation
from kerneljudge.schema import to_json

__all__ = ["BatchProgress", "Outcome", "Report", "run_batch"]

Outcome = Judged | KernelJudgeError
"""What one request of a batch came to: its result, or the exception that came instead."""

_CHUNK = 32
_CHUNK_CHARACTERS = 8 * 2**20
_FULL = frozenset({429})
_HEAD_SECONDS = 2.0
_LOOK_AHEAD = 4


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is, and what just happened."""

    total: int
    """Its requests."""
    ended: int
    """Those that have an outcome."""
    running: Mapping[int, str]
    """Jobs that have not ended, by the index of their request; it changes as they do."""
    index: int | None = None
    """The request that just came to its outcome; None where jobs were submitted."""
    outcome: Outcome | None = None
    """That outcome."""


Report = Callable[[BatchProgress], object]
"""Is told how far a batch is, whenever that changes."""


def run_batch(
    operations: Operations,
    requests: Sequence[Submittable],
    *,
    parallel: int | None = None,
    priority: int | None = None,
    deadline: float | None = None,
    report: Report | None = None,
) -> Operation[list[Outcome]]:
    """Submits all requests, at most `parallel` at a time, and waits for every one.

    What fails is its exception in the list, and holds up no other.
    """
    if parallel is not None and parallel < 1:
        raise ValueError(f"parallel must be at least 1, not {parallel}")
    bodies = [to_json(request_body(request)) for request in requests]
    batch = _Batch(operations, requests, bodies, priority, deadline, report)
    yield from batch.run(parallel or max(len(bodies), 1))
    return [batch.outcomes[index] for index in range(len(bodies))]


@dataclass
class _Batch:
    operations: Operations
    requests: Sequence[Submittable]
    bodies: list[str]
    priority: int | None
    deadline: float | None
    report: Report | None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    # In the order of submission, which is about that in which they end.
    running: dict[int, str] = field(default_factory=dict)

    def run(self, parallel: int) -> Operation[None]:
        try:
            yield from self._run(parallel)
        except (AuthenticationError, ServerUnreachable) as error:
            # What is wrong is wrong with all that are left.
            for index in range(len(self.bodies)):
                if index not in self.outcomes:
                    self._end(index, error)

    def _run(self, parallel: int) -> Operation[None]:
        waiting = deque(range(len(self.bodies)))
        most = _CHUNK
        while waiting or self.running:
            chunk = self._chunk(waiting, min(most, parallel - len(self.running)))
            if not chunk:
                yield from self._advance()
                continue
            try:
                yield from self._submit(chunk)
                most = min(2 * len(chunk), _CHUNK)
            except (AuthenticationError, ServerUnreachable):
                raise
            except RequestError as error:
                # All of a chunk are taken, or none. So a smaller one is tried: there may be room
                # for it, or nothing wrong in it.
                if len(chunk) > 1:
                    most = len(chunk) // 2
                    waiting.extendleft(reversed(chunk))
                elif isinstance(error, RateLimited) and self.running:
                    waiting.extendleft(chunk)
                    yield from self._advance()
                else:
                    self._end(chunk[0], error)
            except ServerError as error:
                for index in chunk:
                    self._end(index, error)

    def _chunk(self, waiting: deque[int], room: int) -> list[int]:
        """Takes what is submitted next."""
        chunk: list[int] = []
        size = 0
        while waiting and len(chunk) < room:
            size += len(self.bodies[waiting[0]])
            if chunk and size > _CHUNK_CHARACTERS:
                break
            chunk.append(waiting.popleft())
        return chunk

    def _submit(self, chunk: list[int]) -> Operation[None]:
        # A full queue is waited out only where no job of its own, and no smaller chunk, remains.
        final = _FULL if self.running or len(chunk) > 1 else frozenset[int]()
        if len(chunk) == 1:
            request = self.requests[chunk[0]]
            call = submit_call(request, priority=self.priority, deadline=self.deadline)
            jobs = [decode((yield from self.operations.answer(call, None, final)), JobResponse)]
        else:
            bodies = [self.bodies[index] for index in chunk]
            call = batch_call(bodies, priority=self.priority, deadline=self.deadline)
            answer = yield from self.operations.answer(call, None, final)
            jobs = decode(answer, BatchAcceptedResponse).jobs
        if len(jobs) != len(chunk):
            raise ServerError(f"the server took {len(jobs)} of {len(chunk)} requests")
        self.running.update(zip(chunk, (job.job_id for job in jobs), strict=True))
        self._tell()

    def _advance(self) -> Operation[None]:
        """Waits for the oldest job for a while; later ones may have ended before it."""
        wait, missed = _HEAD_SECONDS, 0
        for index, job_id in list(self.running.items()):
            ended = yield from self._look(index, job_id, wait)
            missed += not ended
            if (ended and wait) or missed > _LOOK_AHEAD:
                return
            wait = 0.0

    def _look(self, index: int, job_id: str, wait: float) -> Operation[bool]:
        """Whether a job has ended, after `wait` seconds at most."""
        try:
            job = yield from self.operations.poll(job_id, wait)
            if job.status not in ENDED:
                return False
            self._end(index, result_of(job))
        except (AuthenticationError, ServerUnreachable):
            raise
        except KernelJudgeError as error:
            self._end(index, error)
        return True

    def _end(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self.running.pop(index, None)
        self._tell(index, outcome)

    def _tell(self, index: int | None = None, outcome: Outcome | None = None) -> None:
        if self.report is not None:
            total, ended = len(self.bodies), len(self.outcomes)
            self.report(BatchProgress(total, ended, self.running, index, outcome))
