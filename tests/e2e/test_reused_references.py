"""A reference's runner serves further comparisons with the same reference, and nobody can tell."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from pairs import candidate, kernel, reference, renamed
from processes import alive, descendants, stands_still, stat

pytestmark = pytest.mark.e2e

Compare = Callable[..., Any]

INPUTS = "[torch.randn(8, 4), torch.randn(8, 4)]"
SUM = candidate("return a + b")

# What it is not to have, it fetches by its name in a text.
FETCH = 'operator.attrgetter("sys")(enum).modules'
COUNTING = """
import enum
import operator
import torch

modules = {fetch}
seen = modules.setdefault("{name}", [])
seen.append(1)

class Model(torch.nn.Module):
    def forward(self, a, b):
        if len(seen) > {after}:
            {then}
        return a + b

def get_inputs():
    return [torch.randn(8), torch.randn(8)]
"""


def counting(then: str, after: int = 1) -> dict[str, Any]:
    """A reference that knows how often it was loaded in its process."""
    name = f"seen_{time.time_ns()}"
    return kernel(COUNTING.format(name=name, then=then, after=after, fetch=FETCH))


def unique(forward: str, **fields: str) -> dict[str, Any]:
    """A reference that no other test sends."""
    problem = reference(forward, INPUTS, **fields)
    return problem | {"source_code": f"# {time.time_ns()}\n{problem['source_code']}"}


def again(compare: Compare, ref: Any, custom: Any, **fields: Any) -> Any:
    """Compares until the reference's runner has rested long enough to be there."""
    for _ in range(50):
        judged = compare(ref, custom, **fields)
        if judged.reference.reused:
            return judged
    raise AssertionError("no comparison found a runner of an earlier one")


def test_a_comparison_with_the_same_reference_has_its_runner_and_a_new_one_for_the_candidate(
    compare: Compare,
) -> None:
    problem = unique("return args[0] + args[1]")
    first = compare(problem, SUM)
    assert (first.verdict, first.reference.reused) == ("accepted", 0)
    second = again(compare, problem, SUM)
    assert (second.verdict, second.candidate.reused) == ("accepted", 0)
    wrong = again(compare, problem, candidate("return a - b"))
    assert wrong.verdict == "wrong_answer"
    changed = problem | {"source_code": problem["source_code"] + "\n"}
    assert compare(changed, SUM).reference.reused == 0


def test_a_seed_gives_the_same_values_in_a_runner_that_served_before(compare: Compare) -> None:
    problem = unique(
        "return self.layer(args[0]) + torch.randn_like(args[1])",
        init="self.layer = nn.Linear(4, 4)",
    )
    wrong = candidate("return b")
    fresh = compare(problem, wrong, seed=7)
    assert fresh.reference.reused == 0
    assert again(compare, problem, renamed(problem), seed=9).verdict == "accepted"
    reused = again(compare, problem, wrong, seed=7)
    assert [check.outputs for check in reused.checks] == [check.outputs for check in fresh.checks]


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import subprocess",
        "from concurrent import futures",
        "import torch.utils.cpp_extension",
        "from torch import multiprocessing",
        "torch.backends.cudnn.benchmark = True",
        "torch.set_default_dtype(torch.float32)",
        "torch.nn.functional.relu = torch.relu",
        "from torch.nn import Linear; Linear.extra_repr = Linear.extra_repr",
        "from torch.nn.functional import __dict__ as names",
        "import torch._C as C",
        "self = torch.nn.Linear; self.calls = 1",
        "class A(Model):\n    def f(self): self.layer.__class__.calls = 1",
        "L = nn.Linear; L.bias = None",
        "nn.Linear.calls = 1",
        "setattr(nn.Linear, 'calls', 1)",
        "torch.library.Library('kept', 'DEF')",
        "torch._C",
    ],
)
def test_a_reference_that_may_change_its_process_has_a_new_one_each_time(
    compare: Compare, source: str
) -> None:
    problem = unique("return args[0] + args[1]")
    again(compare, problem, SUM)
    problem["source_code"] += f"\n{source}\n"
    for _ in range(3):
        judged = compare(problem, SUM)
        assert (judged.verdict, judged.reference.reused) == ("accepted", 0)


@pytest.mark.parametrize(
    "then", ["raise ValueError('seen before')", "modules['os'].kill(modules['os'].getpid(), 9)"]
)
def test_a_reference_is_not_blamed_for_what_it_does_in_a_process_that_served_before(
    compare: Compare, then: str
) -> None:
    again(compare, counting("pass"), SUM)
    problem = counting(then)
    for _ in range(4):
        judged = compare(problem, SUM)
        assert (judged.verdict, judged.reference.reused) == ("accepted", 0)


def test_a_reference_that_leaves_processes_behind_has_a_new_one_each_time(
    compare: Compare,
) -> None:
    fork = "modules['os'].fork() or (modules['os'].setsid(), modules['time'].sleep(3600))"
    problem = counting(f"seen.clear() or {fork}", after=0)
    for _ in range(3):
        judged = compare(problem, SUM)
        assert (judged.verdict, judged.reference.reused) == ("accepted", 0)


def test_what_a_candidate_leaves_behind_stands_still_when_its_job_has_ended(
    compare: Compare,
) -> None:
    spinning = candidate(
        """
        if not started:
            child = os.fork()
            if not child:
                os.setsid()
                while True:
                    pass
            started.append(child)
            print("child", child, flush=True)
        return a + b
        """,
        top="import os\nstarted = []",
    )
    judged = compare(unique("return args[0] + args[1]"), spinning)
    assert judged.verdict == "accepted"
    child = int(judged.candidate.stdout.split()[1])
    # A process that is ready to run stops when its turn comes.
    while not stands_still(child):
        time.sleep(0.01)
    time.sleep(0.2)
    assert stands_still(child)


def test_what_a_reference_does_to_its_arguments_is_undone_for_the_next_comparison(
    compare: Compare,
) -> None:
    forward = "args[1].append(1); args[0].t_(); return args[0] * len(args[1])"
    problem = unique(forward) | {}
    problem["source_code"] = problem["source_code"].replace(INPUTS, "[torch.randn(8, 4), []]")
    assert compare(problem, renamed(problem), num_checks=1).verdict == "accepted"
    assert again(compare, problem, renamed(problem), num_checks=1).verdict == "accepted"


def test_what_an_earlier_comparison_printed_is_not_told_again(compare: Compare) -> None:
    problem = unique("print('seed', torch.initial_seed()); return args[0] + args[1]")
    first = compare(problem, SUM, num_checks=1, num_trials=1, num_warmup=0)
    second = again(compare, problem, SUM, num_checks=1, num_trials=1, num_warmup=0)
    lines = second.reference.stdout.splitlines()
    assert lines
    assert not set(lines) & set(first.reference.stdout.splitlines())


TENSOR = {"type": "tensor", "tensor_spec": {"shape": [1000]}}
CONTRACT = {
    "args": [
        {"name": "x", **TENSOR},
        {"name": "y", "role": "output", **TENSOR},
        {"name": "n", "type": "int", "value": 1000},
    ],
    "launch": {"grid": {"x": 1}, "block": {"x": 1024}},
}
TRITON = """
import triton
import triton.language as tl

@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)
"""
CUDA = """
__global__ void twice(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * 2;
}
"""
BLOCK = {"name": "BLOCK", "type": "int", "value": 1024, "is_meta": True}


@pytest.mark.parametrize("kernel_type", ["triton", "cuda"])
def test_a_compiled_reference_is_loaded_again_as_well(
    compare: Compare, device: str, kernel_type: str
) -> None:
    if kernel_type == "cuda" and device == "cpu":
        pytest.skip("CUDA runs on a GPU")
    if kernel_type == "triton":
        contract = CONTRACT | {"args": [*CONTRACT["args"], BLOCK]}
        problem = kernel(f"# {time.time_ns()}\n{TRITON}", "triton", io=contract)
    else:
        problem = kernel(f"// {time.time_ns()}\n{CUDA}", "cuda", io=CONTRACT)
    assert again(compare, problem, problem).verdict == "accepted"


def frozen(server: int) -> set[int]:
    """Descendants that are stopped."""
    found = set()
    for pid in descendants(server):
        fields = stat(pid)
        if fields is not None and fields[0] == "T":
            found.add(pid)
    return found


def test_a_resting_runner_is_frozen_and_its_death_is_nobodys_failure(
    compare: Compare, judge_server: Any
) -> None:
    problem = unique("return args[0] + args[1]")
    before = frozen(judge_server.process.pid)
    assert compare(problem, SUM).verdict == "accepted"
    deadline = time.monotonic() + 60
    while not (resting := frozen(judge_server.process.pid) - before):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in resting:
        os.kill(pid, signal.SIGKILL)
    while any(alive(pid) for pid in resting):
        time.sleep(0.01)
    judged = compare(problem, SUM)
    assert (judged.verdict, judged.reference.reused) == ("accepted", 0)
