"""The client's examples run as they are, against a server with no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "client"

# What each of them prints on a server that judges on the CPU.
SHOWN = {
    "simple_pytorch.py": [
        *("reference alone: accepted", "candidate: accepted", "speedup: "),
        "a wrong one: wrong_answer",
    ],
    "triton_kernel.py": ["accepted with seed", "PyTorch: ", "Triton: "],
    "cuda_kernel.py": ["compiled, and not run", "built with nvrtc", "a broken one: compile_error"],
    "advanced_patterns.py": [
        *("wrong: wrong_answer", "broken: runtime_error", "clamp: ", "where: ", "product: "),
        *("event 1: queued", "its verdict: accepted", "judged once: accepted"),
        *("cancelled: cancelled", "body -> kernel -> source_code: "),
    ],
}


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_shows_what_it_says(name: str, cpu_server: Any) -> None:
    done = run(name, "--url", cpu_server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in SHOWN[name]:
        assert line in done.stdout, done.stdout


def test_the_environment_says_where_the_server_is_and_a_wrong_place_is_told() -> None:
    done = run("simple_pytorch.py", KERNELJUDGE_URL="http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot reach the server at http://127.0.0.1:1")
