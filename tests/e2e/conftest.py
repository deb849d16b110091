"""Every test here runs on a CPU device, and again on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
