"""Requests over HTTP, as values: what each method of the client sends."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from kerneljudge.schema import CompareRequest, EvaluateRequest, to_json

__all__ = [
    "Call",
    "Submittable",
    "batch_call",
    "cancel_call",
    "cleanup_call",
    "events_call",
    "health_call",
    "job_call",
    "jobs_call",
    "request_body",
    "stats_call",
    "submit_call",
]

Submittable = EvaluateRequest | CompareRequest | Mapping[str, Any]
"""What can be submitted: a request, or a dict of the same fields."""

_ANSWER_SECONDS = 60.0
# Soon enough for whoever opens a laptop whose connection died meanwhile.
_POLL_SECONDS = 15.0


@dataclass(frozen=True)
class Call:
    """One HTTP request."""

    method: str
    """GET, POST or DELETE."""
    path: str
    """Below the server's address."""
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    """The query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Its own headers, beside those of every request."""
    content: str | None = None
    """The JSON body."""
    seconds: float = _ANSWER_SECONDS
    """How long one attempt may wait for its answer."""
    repeatable: bool = True
    """Whether sending it twice does no more than sending it once."""

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.method} {self.path}"


def request_body(request: Submittable) -> Mapping[str, Any]:
    """The body of one request as a mapping. Raises `TypeError` for what is none."""
    if isinstance(request, EvaluateRequest | CompareRequest):
        return dict(request)
    if isinstance(request, Mapping):
        return request
    raise TypeError(
        "a request is an EvaluateRequest, a CompareRequest or a dict of the same fields, not "
        f"{type(request).__name__}"
    )


def submit_call(
    request: Submittable,
    *,
    priority: int | None = None,
    deadline: float | None = None,
    idempotency_key: str | None = None,
) -> Call:
    """Submits one job, and does not wait for it."""
    body = request_body(request)
    path = "/evaluate" if "kernel" in body else "/compare"
    return _submission(path, to_json(body), priority, deadline, idempotency_key)


def batch_call(
    bodies: Sequence[str], *, priority: int | None = None, deadline: float | None = None
) -> Call:
    """Submits several jobs, whose bodies are JSON already: all of them or none."""
    content = f'{{"requests": [{", ".join(bodies)}]}}'
    return _submission("/batch", content, priority, deadline, None)


def job_call(job_id: str, wait: float = 0.0) -> Call:
    """Asks for one job, which may take `wait` seconds to end before it is told as it stands."""
    params = {"wait": f"{wait:g}"} if wait > 0 else {}
    return Call("GET", _job(job_id), {**params}, seconds=_POLL_SECONDS + wait)


def jobs_call(
    filters: Mapping[str, Any], limit: int | None = None, cursor: str | None = None
) -> Call:
    """Asks for one page of jobs."""
    given = {**filters, "limit": limit, "cursor": cursor}
    return Call("GET", "/jobs", {name: _texts(one) for name, one in given.items() if one})


def events_call(job_id: str, last: str | None) -> Call:
    """Asks for the events of a job after the `last` one that is known."""
    headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
    return Call("GET", f"{_job(job_id)}/events", headers=headers)


def cancel_call(job_id: str) -> Call:
    """Cancels a job."""
    return Call("DELETE", _job(job_id))


def stats_call() -> Call:
    """Asks for counts and times."""
    return Call("GET", "/stats")


def health_call() -> Call:
    """Asks for the server's health, as it is now: nothing is gained by asking until it is well."""
    return Call("GET", "/health", repeatable=False)


def cleanup_call() -> Call:
    """Drops old jobs."""
    return Call("POST", "/admin/cleanup-jobs", repeatable=False)


def _texts(value: Any) -> str | list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else str(value)


def _job(job_id: str) -> str:
    # A dot alone would be taken for a step in the path.
    return f"/job/{quote(job_id, safe='').replace('.', '%2E')}"


def _submission(
    path: str,
    content: str,
    priority: int | None,
    deadline: float | None,
    idempotency_key: str | None,
) -> Call:
    params: dict[str, str | list[str]] = {"wait": "false"}
    if priority is not None:
        params["priority"] = str(priority)
    if deadline is not None:
        params["deadline"] = str(deadline)
    headers = {
        "Content-Type": "application/json",
        # One key for all attempts: whichever arrives first, there is one job.
        "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
    }
    return Call("POST", path, params, headers, content)
