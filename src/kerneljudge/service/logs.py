"""The server's log: text, or JSON with one object a line, on standard error.

Every line about a job has the job's id: those of the service name it, by `extra={"job_id": …}`,
and those that are written inside `job_context`, such as the access log's, get it from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kerneljudge.service.settings import LogLevel

__all__ = ["bind_job", "configure", "job_context"]

_JOB: Final[ContextVar[str | None]] = ContextVar("job_id", default=None)

# What every record has, so that what `extra` added can be told apart.
_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    *("asctime", "color_message", "message", "taskName")
}
_ACCESS: Final = ("client_address", "method", "path", "http_version", "status_code")
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def configure(level: LogLevel = "info", format_: Literal["text", "json"] = "text") -> None:
    """Sends everything that is logged from `level` on to standard error.

    Also what the HTTP server logs. Called again, it replaces what was configured before.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_name_job)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def bind_job(job_id: str | None) -> None:
    """Lets every later line of the running task, such as a request's, have the job's id; or no
    line."""
    _JOB.set(job_id)


@contextlib.contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Lets every line that is written inside have the job's id."""
    token = _JOB.set(job_id)
    try:
        yield
    finally:
        _JOB.reset(token)


def _name_job(record: logging.LogRecord) -> bool:
    if getattr(record, "job_id", None) is None and (job_id := _JOB.get()) is not None:
        record.job_id = job_id
    return True


class _Text(logging.Formatter):
    """One line for people, and an exception's traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line: what a submitted kernel said must not pass for another one."""
        job_id = getattr(record, "job_id", None)
        about = "" if job_id is None else f" job_id={job_id}"
        return _CONTROL.sub(_escaped, super().formatMessage(record) + about)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback, indented: nor must what an exception quotes."""
        lines = super().formatException(ei).split("\n")
        return "\n".join("    " + _CONTROL.sub(_escaped, line) for line in lines)


class _Json(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            told |= dict(zip(_ACCESS, record.args, strict=False))
        told |= {
            name: value for name, value in record.__dict__.items() if name not in _OWN | told.keys()
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def _escaped(character: re.Match[str]) -> str:
    return repr(character[0])[1:-1]
