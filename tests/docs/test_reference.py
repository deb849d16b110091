"""The tables of the guides agree with the code: fields, words in their order, options, exit
codes, messages.

A table says in its first heading what it lists: "field of `Fault`", "value of `Verdict`",
"option of `serve`", "method of `KernelJudgeClient`".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest
import typer
from pydantic import BaseModel

from kerneljudge import api, schema
from kerneljudge.api import bodies, responses
from kerneljudge.cli import Exit
from kerneljudge.cli import app as commands
from kerneljudge.client import KernelJudgeClient
from kerneljudge.contract import LaunchConfig, TensorData, TensorSpec
from kerneljudge.schema import BuildReport, ClockReport, JobReport
from kerneljudge.service import JobState

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MESSAGE_TABLES = ("refused with", "`compile_error`", "HTTP 400", "reason")


@dataclass(frozen=True)
class Table:
    """A table of a page; cells are stripped."""

    page: str
    heading: list[str]
    rows: list[list[str]]

    def subject(self, what: str) -> list[str]:
        """The names in "field of `A`", where `what` is "field"; else none."""
        first = self.heading[0]
        return names(first) if first.startswith(f"{what} of ") else []

    @property
    def names(self) -> list[str]:
        """All names in the first column."""
        return [name for row in self.rows for name in names(row[0])]


def names(cell: str) -> list[str]:
    """What a cell has as code."""
    return [first or second for first, second in re.findall(r"``(.+?) ?``|`([^`]+)`", cell)]


def tables(page: Path) -> Iterator[Table]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")]
        yield Table(page.name, rows[0], [row for row in rows[2:] if row != [""]])


TABLES = [table for page in sorted(DOCS.glob("*.md")) for table in tables(page)]


def about(what: str, name: str) -> list[Table]:
    found = [table for table in TABLES if name in table.subject(what)]
    assert found, f"no page has a table '{what} of `{name}`'"
    return found


def listed(what: str, name: str) -> list[str]:
    return [entry for table in about(what, name) for entry in table.names]


CONTRACT = {"tensor_spec": TensorSpec, "data": TensorData, "launch": LaunchConfig}


def model(name: str) -> type[BaseModel]:
    if name in CONTRACT:
        return CONTRACT[name]
    for module in (schema, api, responses, bodies):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    raise AssertionError(f"there is no model {name}")


MODELS = sorted({name for table in TABLES for name in table.subject("field")})
REPORTED = (
    *("CompareResponse", "KernelExecResult", "ExecutionMetadata", "RuntimeStatistics"),
    *("Tolerances", "SideReport", "Environment", "Fault", "CheckReport", "OutputReport"),
    *("ElementReport", "BuildReport", "ClockReport", "JobResponse", "HealthResponse"),
    *("StatsResponse", "QueueStats", "ClientShare", "DeviceHealth"),
    *("ServerErrorResponse", "CancelledResponse", "JobListResponse", "JobEventResponse"),
    *("BatchRequest", "BatchResponse", "BatchResult", "BatchAcceptedResponse"),
    *("EvaluateRequest", "CompareRequest"),
    *("LegacyCompareRequest", "KernelCode", "TorchOptions", "TorchCudaOptions"),
    *("TritonOptions", "CudaOptions", "MultiKernelOptions"),
)


@pytest.mark.parametrize("name", sorted({*MODELS, *REPORTED}))
def test_every_field_is_listed_and_no_other(name):
    assert sorted(listed("field", name)) == sorted(model(name).model_fields)


@pytest.mark.parametrize(
    "words", [schema.Verdict, schema.Phase, schema.FaultKind, JobState], ids=lambda e: e.__name__
)
def test_every_word_is_listed_in_its_order(words: type[StrEnum]):
    shown = listed("value", words.__name__)
    if words is schema.FaultKind:  # whose table says in its second column what they become
        assert sorted(shown) == sorted(words)
    else:
        assert shown == list(words)


@pytest.mark.parametrize(
    ("heading", "field"),
    [
        ("`way`", BuildReport.model_fields["way"]),
        ("`name`", ClockReport.model_fields["name"]),
        ("`transport`", JobReport.model_fields["transport"]),
    ],
    ids=["way", "clock", "transport"],
)
def test_every_choice_is_listed(heading, field):
    (table,) = [table for table in TABLES if table.heading[0] == heading]
    literals = [one for one in (field.annotation, *get_args(field.annotation)) if get_args(one)]
    choices = {choice for one in literals for choice in get_args(one) if isinstance(choice, str)}
    assert sorted(table.names) == sorted(choices)


def options_of(command: str) -> set[str]:
    """The options of a command as it is typed, without --help."""
    found = typer.main.get_command(commands)
    for name in command.split():
        found = found.commands[name]
    return {
        name
        for parameter in found.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
    } - {"--help"}


@pytest.mark.parametrize(
    "command",
    [
        *("compare", "evaluate", "serve", "config", "keys create", "demo", "doctor"),
        *("submit", "wait", "watch", "jobs", "job", "cancel", "stats", "health"),
    ],
)
def test_every_option_of_a_command_is_listed_and_no_other(command):
    assert sorted(listed("option", command)) == sorted(options_of(command))


def test_every_command_is_listed():
    (table,) = [table for table in TABLES if table.heading[0] == "command"]
    group = typer.main.get_command(commands)
    assert sorted(names(" ".join(row[0] for row in table.rows))) == sorted(group.commands)


def test_every_exit_code_is_listed():
    (table,) = [table for table in TABLES if table.heading[0] == "exit code"]
    assert [int(row[0]) for row in table.rows] == list(Exit)


def test_every_method_of_the_client_is_listed():
    public = {name for name in vars(KernelJudgeClient) if not name.startswith("_")}
    shown = {name.partition("(")[0] for name in listed("method", "KernelJudgeClient")}
    assert shown == public


# --- messages


def _pattern(node: ast.JoinedStr | ast.Constant) -> tuple[str, int]:
    """A regular expression for a text of the code, and how many letters of it are fixed."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    fixed = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    pattern = "".join(
        re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts
    )
    return pattern, sum(map(str.isalpha, "".join(fixed)))


def texts_of_the_code() -> Iterator[tuple[str, int]]:
    for path in sorted((ROOT / "src" / "kerneljudge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                yield _pattern(node)


def test_every_message_in_the_guide_is_one_that_the_code_gives():
    patterns = list(texts_of_the_code())
    given = [re.compile(pattern, re.S | re.I) for pattern, fixed in patterns if fixed >= 7]
    endings = [pattern for pattern, fixed in patterns if fixed >= 20 and ".*" not in pattern]
    exact = {pattern for pattern, _ in patterns}
    messages = [
        (table.page, names(row[0])[0])
        for table in TABLES
        if table.heading[0] in MESSAGE_TABLES
        for row in table.rows
        if row[0].startswith("`")
    ]
    assert len(messages) > 40
    unknown = [
        f"{page}: {message}"
        for page, message in messages
        if re.escape(message) not in exact
        # Some messages go on with a log, on lines of their own.
        and not any(
            pattern.fullmatch(text) for pattern in given for text in (message, f"{message}\n")
        )
        and not any(re.search(ending, message) for ending in endings)
    ]
    assert not unknown, "\n".join(unknown)
