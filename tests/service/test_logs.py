"""The log: one line each, text or JSON, with the job that it is about."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kerneljudge.service.logs import bind_job, configure, job_context

pytestmark = pytest.mark.unit

LOG = logging.getLogger("kerneljudge.tests")


class Written:
    """What was written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self) -> list[str]:
        """The lines since the last call."""
        return self._capsys.readouterr().err.splitlines()

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Standard error; afterwards the log is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Written(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_of_json_has_what_is_known(stderr: Written) -> None:
    configure("info", "json")
    LOG.warning("%d of %s", 2, "them", extra={"job_id": "abc", "device": "cuda:1"})
    (line,) = stderr.objects()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "kerneljudge.tests",
        "message": "2 of them",
        "job_id": "abc",
        "device": "cuda:1",
    }


def test_an_exception_stays_in_its_line_of_json(stderr: Written) -> None:
    configure("info", "json")
    try:
        raise ValueError("over\nthere")
    except ValueError:
        LOG.exception("it failed")
    (line,) = stderr.objects()
    assert line["message"] == "it failed"
    assert "Traceback" in line["exception"]
    assert "ValueError: over\nthere" in line["exception"]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_less_severe_lines_than_the_level_are_left_out(stderr: Written, format_: Any) -> None:
    configure("warning", format_)
    LOG.info("quiet")
    LOG.error("loud")
    (line,) = stderr.lines()
    assert "loud" in line


def test_lines_of_a_context_have_its_job_and_those_around_it_none(stderr: Written) -> None:
    configure("info", "json")
    LOG.info("before")
    with job_context("one"):
        LOG.info("inside")
        with job_context("two"):
            LOG.info("further inside")
        LOG.info("named", extra={"job_id": "three"})
    LOG.info("after")
    assert [(line["message"], line.get("job_id")) for line in stderr.objects()] == [
        ("before", None),
        ("inside", "one"),
        ("further inside", "two"),
        ("named", "three"),
        ("after", None),
    ]


def test_tasks_have_each_their_own_job(stderr: Written) -> None:
    configure("info", "json")

    async def work(name: str, turn: asyncio.Barrier) -> None:
        bind_job(name)
        await turn.wait()
        LOG.info("of %s", name)

    async def main() -> None:
        turn = asyncio.Barrier(2)
        await asyncio.gather(work("a", turn), work("b", turn))
        LOG.info("of none")

    asyncio.run(main())
    lines = {line["message"]: line.get("job_id") for line in stderr.objects()}
    assert {"of a": "a", "of b": "b", "of none": None}.items() <= lines.items()


def test_text_names_the_job_and_lets_no_message_pass_for_a_line(stderr: Written) -> None:
    configure("info", "text")
    LOG.info(
        "it said: %s", "x\n2026-01-01 00:00:00 INFO root: forged\x1b[2J", extra={"job_id": "j\nk"}
    )
    (line,) = stderr.lines()
    assert line.endswith(r"x\n2026-01-01 00:00:00 INFO root: forged\x1b[2J job_id=j\nk")
    assert " INFO kerneljudge.tests: it said" in line


def test_text_lets_nothing_that_an_exception_says_pass_for_a_line(stderr: Written) -> None:
    configure("info", "text")
    try:
        raise ValueError("x\n2026-01-01 00:00:00 INFO root: forged\r\x1b[2J")
    except ValueError:
        LOG.exception("it failed")
    first, *below = stderr.lines()
    assert first.endswith("it failed")
    assert below[-1] == r"    2026-01-01 00:00:00 INFO root: forged\r\x1b[2J"
    assert all(line.startswith("    ") for line in below)


def test_text_has_tracebacks_below_the_line(stderr: Written) -> None:
    configure("info", "text")
    try:
        raise ValueError("over there")
    except ValueError:
        LOG.exception("it failed")
    assert stderr.lines()[-1] == "    ValueError: over there"


def test_the_http_servers_access_log_has_its_parts_as_fields(stderr: Written) -> None:
    configure("info", "json")
    with job_context("abc"):
        logging.getLogger("uvicorn.access").info(
            '%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/job/abc", "1.1", 200
        )
    (line,) = stderr.objects()
    assert line["message"] == '127.0.0.1:5 - "GET /job/abc HTTP/1.1" 200'
    assert (line["method"], line["path"], line["status_code"]) == ("GET", "/job/abc", 200)
    assert line["client_address"] == "127.0.0.1:5"
    assert line["job_id"] == "abc"


def test_configuring_again_replaces_what_was(stderr: Written) -> None:
    configure("info", "text")
    configure("info", "json")
    LOG.info("once")
    assert len(stderr.objects()) == 1
