"""Every test here runs on a CPU device, and again on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kerneljudge.client import KernelJudgeClient

Compare = Callable[..., Any]


@pytest.fixture(
    scope="session",
    params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)],
)
def device(request: pytest.FixtureRequest) -> str:
    """`cpu` or `gpu`."""
    return str(request.param)


@pytest.fixture(scope="session")
def judge_server(device: str, request: pytest.FixtureRequest) -> Any:
    """The server that judges on the device."""
    return request.getfixturevalue(f"{device}_server")


@pytest.fixture(scope="session")
def client(judge_server: Any) -> Iterator[KernelJudgeClient]:
    """A client of that server."""
    with KernelJudgeClient(judge_server.url, timeout=600) as connected:
        yield connected


@pytest.fixture
def compare(client: KernelJudgeClient) -> Compare:
    """POST /compare with few trials; keyword arguments are fields of the request."""

    def send(ref_kernel: Any, custom_kernel: Any, **fields: Any) -> Any:
        return client.compare(ref_kernel, custom_kernel, **({"num_trials": 5} | fields))

    return send


def descendants(pid: int) -> set[int]:
    """All living processes that descend from one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def command_lines(pids: set[int]) -> dict[int, str]:
    """What those processes are."""
    lines = {}
    for pid in pids:
        try:
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines
