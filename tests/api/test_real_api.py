"""The examples of the OpenAPI document run, on a real server that judges on the CPU."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from kerneljudge.api.examples import COMPARE_EXAMPLES, EVALUATE_EXAMPLES

pytestmark = pytest.mark.e2e

# What takes a GPU to run.
UNSUPPORTED = {("/evaluate", "cuda"), ("/compare", "legacy")}

EXAMPLES = [
    pytest.param(path, name, example["value"], id=f"{path[1:]}-{name}")
    for path, examples in (("/evaluate", EVALUATE_EXAMPLES), ("/compare", COMPARE_EXAMPLES))
    for name, example in examples.items()
]


@pytest.mark.parametrize(("path", "name", "body"), EXAMPLES)
def test_an_example_runs(cpu_server: Any, path: str, name: str, body: dict[str, Any]) -> None:
    response = httpx.post(f"{cpu_server.url}{path}", json=body, timeout=280)
    assert response.status_code == 200, response.text
    answer = response.json()
    expected = "unsupported" if (path, name) in UNSUPPORTED else "accepted"
    assert answer["verdict"] == expected, response.text
    assert answer["environment"]["device"] == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize(("path", "name", "body"), EXAMPLES)
def test_an_example_is_accepted_on_a_gpu(
    gpu_server: Any, path: str, name: str, body: dict[str, Any]
) -> None:
    response = httpx.post(f"{gpu_server.url}{path}", json=body, timeout=280)
    assert response.status_code == 200, response.text
    assert response.json()["verdict"] == "accepted", response.text
