"""What the tests of kernel types share: kernels from text, and Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def interpreter_process() -> Iterator[subprocess.Popen[str]]:
    """A process in which Triton interprets: the choice is made before triton is imported."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "support" / "kernel_runs.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture
def interpret(interpreter_process: subprocess.Popen[str], tmp_path: Path) -> Callable[..., Any]:
    """Runs a kernel on the CPU, Triton interpreted: a `KernelRun`, or the error that it raised."""
    import torch
    from kernel_runs import KernelRun

    from kerneljudge.languages import LoadError, Refusal
    from kerneljudge.schema import KernelCode

    calls = 0

    def run(kernel: KernelCode, **context: Any) -> KernelRun:
        nonlocal calls
        calls += 1
        request = {
            "kernel": kernel.model_dump(mode="json", exclude_none=True),
            "scratch": str(tmp_path / f"run-{calls}"),
            "context": context,
        }
        assert interpreter_process.stdin is not None
        assert interpreter_process.stdout is not None
        interpreter_process.stdin.write(json.dumps(request) + "\n")
        interpreter_process.stdin.flush()
        answer = json.loads(interpreter_process.stdout.readline())
        if "result" in answer:
            return KernelRun(**torch.load(answer["result"], weights_only=True))
        if answer["error"] == "Refusal":
            raise Refusal(answer["message"], answer["hint"])
        if answer["error"] == "LoadError":
            raise LoadError(answer["message"], answer["hint"])
        raise RuntimeError(answer["message"])

    return run


@pytest.fixture
def has_no_torch() -> Callable[[str], bool]:
    """Whether Python code, in a process of its own, ends well and imports no torch."""

    def check(code: str) -> bool:
        code += "\nimport sys\nsys.exit(bool({'torch', 'numpy', 'triton'} & set(sys.modules)))"
        return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    return check
