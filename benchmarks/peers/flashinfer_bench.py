"""flashinfer-bench's `Benchmark` on the task, with its isolated or its persistent runner.

An evaluation is one `run_all` of one solution, baseline included, by a `Benchmark` that is kept:
its imports and its CUDA context are paid before.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
import time

from benchmarks.peers.outcome import Outcome, PeerError, add_task_arguments, report, task_of
from benchmarks.task import Task

_REFERENCE = "import torch\n\ndef run(x, y):\n    return x + y\n"

_SOLUTION = """
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, x + y, mask=mask)


def run(x, y, out):
    add_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel(), BLOCK=1024)
"""


def _measure(arguments: argparse.Namespace, task: Task, outcome: Outcome) -> None:
    from flashinfer_bench import Benchmark, BenchmarkConfig, TraceSet
    from flashinfer_bench.data import Definition, Solution, Trace, Workload

    matrix = {"shape": ["M", "N"], "dtype": "float32"}
    definition = Definition.model_validate(
        {
            "name": "add",
            "op_type": "elementwise",
            "axes": {
                "M": {"type": "const", "value": task.rows},
                "N": {"type": "const", "value": task.columns},
            },
            "inputs": {"x": matrix, "y": matrix},
            "outputs": {"out": matrix},
            "reference": _REFERENCE,
        }
    )
    solution = Solution.model_validate(
        {
            "name": "add_triton",
            "definition": "add",
            "author": "kerneljudge",
            "spec": {
                "language": "triton",
                "target_hardware": ["cuda"],
                "entry_point": "main.py::run",
                "destination_passing_style": True,
            },
            "sources": [{"path": "main.py", "content": _SOLUTION}],
        }
    )
    workload = Workload.model_validate(
        {"axes": {}, "inputs": {"x": {"type": "random"}, "y": {"type": "random"}}, "uuid": "add"}
    )
    # Its trials are sets of inputs, each checked once and timed `iterations` times.
    config = BenchmarkConfig(
        num_trials=task.checks,
        iterations=max(1, task.trials // task.checks),
        use_isolated_runner=arguments.mode == "isolated",
    )
    outcome.notes.append(f"{config.num_trials} inputs × {config.iterations} timed runs")
    benchmark = Benchmark(
        TraceSet(
            definitions={"add": definition},
            solutions={"add": [solution]},
            workloads={"add": [Trace(definition="add", workload=workload)]},
        ),
        config,
    )
    try:
        for repetition in range(arguments.repeats + 1):
            start = time.perf_counter()
            traces = benchmark.run_all(dump_traces=False).traces.get("add", [])
            seconds = time.perf_counter() - start
            if not traces:
                raise PeerError("flashinfer-bench returned no trace (its log says why)")
            evaluation = traces[0].evaluation
            outcome.verdict = evaluation.status.value.lower()
            if evaluation.performance is None:
                raise PeerError(f"{evaluation.status.value}: {evaluation.log[-2000:]}")
            if repetition > 0:  # the first one fills Triton's cache
                outcome.seconds.append(seconds)
                outcome.kernel_ms.append(evaluation.performance.latency_ms)
                outcome.reference_ms.append(evaluation.performance.reference_latency_ms)
    finally:
        benchmark.close()


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["isolated", "persistent"], default="isolated")
    parser.add_argument("--repeats", type=int, default=3)
    add_task_arguments(parser)
    arguments = parser.parse_args()
    version = importlib.metadata.version("flashinfer-bench")
    outcome = Outcome(
        system=f"flashinfer-bench {version}, {arguments.mode} runner",
        case="triton, seen",
        isolated=arguments.mode == "isolated",
    )
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FIB_CACHE_PATH"] = cache
        return report(outcome, lambda outcome: _measure(arguments, task_of(arguments), outcome))


if __name__ == "__main__":
    sys.exit(main())
