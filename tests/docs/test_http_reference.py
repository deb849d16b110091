"""The page of the HTTP API has every path, every parameter and every status of the server's own
description, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from scripted import ScriptedEvaluator

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, Settings, SqlStore

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def document() -> dict[str, Any]:
    """The description, for which nothing need run."""
    service = JobService(ScriptedEvaluator(), store=cast(SqlStore, None), settings=Settings())
    return create_app(service).openapi()


OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in document()["paths"].items()
    for method, operation in operations.items()
}


def table(heading: str) -> list[list[str]]:
    """The rows of the tables whose first heading matches."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")]
        if re.search(heading, rows[0][0]):
            found += rows[2:-1]
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_path_is_listed():
    assert sorted(name for row in table("^endpoint$") for name in code(row[0])) == sorted(
        OPERATIONS
    )


@pytest.mark.parametrize(
    "operation", [name for name, operation in OPERATIONS.items() if operation.get("parameters")]
)
def test_every_parameter_is_listed_and_no_other(operation):
    listed = [
        name for row in table(rf"^parameter of .*`{re.escape(operation)}`") for name in code(row[0])
    ]
    described = [parameter["name"] for parameter in OPERATIONS[operation]["parameters"]]
    assert sorted(listed) == sorted(described)


def test_every_status_is_listed():
    listed = {status for row in table("^status$") for status in row[0].split(", ")}
    described = {status for operation in OPERATIONS.values() for status in operation["responses"]}
    # The router's own, which no path describes.
    assert listed == described | {"405"}
