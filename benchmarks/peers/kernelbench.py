"""KernelBench's own evaluation function on the task: `eval_kernel_against_ref` of a checkout.

`--mode process` runs each evaluation in a fresh Python process, as its scripts do; `--mode shared`
runs all of them in one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import tomllib
import types
from pathlib import Path
from typing import Any

from benchmarks.peers.outcome import Outcome, PeerError, add_task_arguments, report, task_of
from benchmarks.task import Task, source

_CANDIDATES = {
    "triton": ("model_triton.py", "triton"),
    "torch_cuda": ("model_torch_cuda.py", "cuda"),
}

# The checkout's `utils` imports these when it is imported, to ask language models for kernels;
# an evaluation never calls them. Each name must exist, and does not need to work.
_LANGUAGE_MODEL_CLIENTS = {"openai": ["OpenAI"], "litellm": ["completion"]}


@functools.cache
def _stand_in_for_absent_clients() -> list[str]:
    absent = [name for name in _LANGUAGE_MODEL_CLIENTS if importlib.util.find_spec(name) is None]
    for name in absent:
        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for attribute in _LANGUAGE_MODEL_CLIENTS[name]:
            setattr(module, attribute, None)
        sys.modules[name] = module
    return absent


def _evaluate(path: Path, task: Task, candidate: str, revision: int, build: Path) -> dict[str, Any]:
    """One evaluation, as a user of the checkout would write it."""
    sys.path.insert(0, str(path / "src"))
    absent = _stand_in_for_absent_clients()
    import torch
    from kernelbench.eval import eval_kernel_against_ref

    if not torch.cuda.is_available():
        raise PeerError("no GPU: KernelBench evaluates on CUDA devices only")
    file, backend = _CANDIDATES[candidate]
    result = eval_kernel_against_ref(
        original_model_src=source("reference.py", task),
        custom_model_src=source(file, task, revision),
        num_correct_trials=task.checks,
        num_perf_trials=task.trials,
        measure_performance=True,
        backend=backend,
        build_dir=str(build),
        device=torch.device("cuda:0"),
    )
    if result is None:
        raise PeerError("KernelBench returned no result (a lock of its build cache)")
    if not (result.compiled and result.correctness):
        raise PeerError(f"KernelBench did not accept the candidate: {result.metadata}")
    return {
        "kernel_ms": result.runtime,
        "reference_ms": result.ref_runtime,
        "notes": [f"stand-ins for the uninstalled {', '.join(absent)}"] if absent else [],
    }


def _add(outcome: Outcome, seconds: float, answer: dict[str, Any]) -> None:
    outcome.seconds.append(seconds)
    outcome.kernel_ms.append(answer["kernel_ms"])
    outcome.reference_ms.append(answer["reference_ms"])
    outcome.notes = answer["notes"]
    outcome.verdict = "correct"


def _once_in_a_process(revision: int, build: Path) -> tuple[float, dict[str, Any]]:
    answer = build / "answer.json"
    command = [sys.executable, "-m", "benchmarks.peers.kernelbench", *sys.argv[1:]]
    command += ["--once", str(answer), "--revision", str(revision)]
    start = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise PeerError(last.rpartition("PeerError: ")[2])
    return seconds, json.loads(answer.read_text())


def _measure(arguments: argparse.Namespace, outcome: Outcome) -> None:
    # A candidate in CUDA is measured cold: never seen before, in an empty build folder. One in
    # Triton with its build cached, by one evaluation that is not counted.
    cold = arguments.candidate == "torch_cuda"
    for repetition in range(arguments.repeats + (0 if cold else 1)):
        with tempfile.TemporaryDirectory() as folder:
            build = Path(folder)
            revision = arguments.revision + (repetition if cold else 0)
            if arguments.mode == "process":
                seconds, answer = _once_in_a_process(revision, build)
            else:
                start = time.perf_counter()
                answer = _evaluate(
                    arguments.path, task_of(arguments), arguments.candidate, revision, build
                )
                seconds = time.perf_counter() - start
        if cold or repetition > 0:
            _add(outcome, seconds, answer)


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="the checkout")
    parser.add_argument("--mode", choices=["process", "shared"], default="process")
    parser.add_argument("--candidate", choices=list(_CANDIDATES), default="triton")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--revision", type=int, default=0, help="of the candidate's source")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    add_task_arguments(parser)
    arguments = parser.parse_args()
    if arguments.once is not None:
        answer = _evaluate(
            arguments.path,
            task_of(arguments),
            arguments.candidate,
            arguments.revision,
            arguments.once.parent,
        )
        arguments.once.write_text(json.dumps(answer))
        return 0
    project = tomllib.loads((arguments.path / "pyproject.toml").read_text())["project"]
    ways = {"process": "a process each", "shared": "one process"}
    cold = arguments.candidate == "torch_cuda"
    outcome = Outcome(
        system=f"KernelBench {project['version']}, {ways[arguments.mode]}",
        case="torch_cuda, never seen" if cold else "triton, seen",
        isolated=arguments.mode == "process",
    )
    return report(outcome, lambda outcome: _measure(arguments, outcome))


if __name__ == "__main__":
    sys.exit(main())
