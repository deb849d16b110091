"""Loads a kernel and runs it once on the values of its contract, as a runner does.

As a script it does so for others: with `TRITON_INTERPRET=1` it is a process that runs Triton on a
CPU. It reads one JSON request a line, and answers each with a line.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kerneljudge.building.requests import BuildRequest, BuildResult
from kerneljudge.contract import ArgSpec
from kerneljudge.contract.generation import generate, value_seed
from kerneljudge.languages import LANGUAGES, LoadContext, LoadedKernel, LoadError, Refusal
from kerneljudge.schema import KernelCode, Side


@dataclass
class KernelRun:
    """What came of one run."""

    name: str
    """What was called."""
    notes: list[str]
    """What the language had to say."""
    given: dict[str, Any]
    """The arguments before the run, by name."""
    after: dict[str, Any]
    """The arguments after it."""
    returned: Any
    """What the kernel returned."""


def no_build(request: BuildRequest) -> BuildResult:
    """Stands for a builder where none may be asked."""
    raise AssertionError(f"nothing is built here: {request.kind}")


def load(
    kernel: KernelCode,
    scratch: Path,
    *,
    side: Side = "candidate",
    device: str = "cpu",
    **context: Any,
) -> LoadedKernel:
    """Reads and loads a kernel. More of the context by keyword."""
    language = LANGUAGES[kernel.kernel_type]
    language.read(kernel, side)
    scratch.mkdir(parents=True, exist_ok=True)
    context = {"seed": 7, "build": no_build} | context
    return language.load(
        kernel, LoadContext(device=torch.device(device), side=side, scratch=scratch, **context)
    )


def argument(spec: ArgSpec, position: int, device: str) -> Any:
    """An argument's value; outputs hold 777, which no kernel of these tests computes."""
    if spec.tensor_spec is None:
        return spec.value
    seed = value_seed(spec.tensor_spec, job_seed=0, position=position, trial=0)
    tensor = generate(spec.tensor_spec, name=spec.name, device=device, seed=seed)
    return tensor.fill_(777) if spec.role == "output" else tensor


def run(kernel: KernelCode, scratch: Path, **context: Any) -> KernelRun:
    """Loads a kernel and calls it once, on its contract's values or its own `get_inputs()`."""
    device = context.get("device", "cpu")
    loaded = load(kernel, scratch, **context)
    if kernel.io is not None:
        names = [spec.name for spec in kernel.io.args]
        values = [argument(spec, index, device) for index, spec in enumerate(kernel.io.args)]
    else:
        made = loaded.make_inputs()
        assert made is not None
        names, values = [str(index) for index in range(len(made))], made
    given = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in zip(names, values, strict=True)
    }
    with torch.no_grad():
        returned = loaded(values)
    return KernelRun(
        loaded.name, list(loaded.notes), given, dict(zip(names, values, strict=True)), returned
    )


def main() -> None:
    """Answers `{"kernel": …, "scratch": …}` by `{"result": FILE}` or `{"error": …}`."""
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            done = run(
                KernelCode.model_validate(request["kernel"]),
                Path(request["scratch"]),
                **request["context"],
            )
            file = Path(request["scratch"]) / "run.pt"
            torch.save(vars(done), file)
            answer = {"result": str(file)}
        except (Refusal, LoadError) as error:
            answer = {
                "error": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        except Exception:
            answer = {"error": "Exception", "message": traceback.format_exc(), "hint": None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
