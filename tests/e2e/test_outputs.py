"""What counts as the same output, through the public API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pairs import REFERENCE, candidate, kernel, reference, renamed

pytestmark = pytest.mark.e2e

Compare = Callable[..., Any]


@pytest.mark.parametrize(
    ("forward", "inputs"),
    [
        ("return args[0] * 2, args[0] + 1", "[torch.randn(8, 4)]"),
        ("return [args[0] * 2, (args[0] + 1, args[0].sum())]", "[torch.randn(8, 4)]"),
        ("return {'a': args[0] * 2, 'b': {'c': args[0].mean()}}", "[torch.randn(8, 4)]"),
        ("return args[0] + args[1]", "[torch.randint(0, 9, (8,)), torch.randint(0, 9, (8,))]"),
        ("return args[0] & args[1]", "[torch.rand(9) > 0.5, torch.rand(9) > 0.5]"),
        ("return args[0].argmax(-1)", "[torch.randn(16, 32)]"),
        ("return args[0].sum(args[1])", "[torch.randn(3, 4, 5), 1]"),
        ("return args[0].sum(args[1], keepdim=args[2])", "[torch.randn(3, 4, 5), (0, 2), True]"),
        ("return args[0].item() * 2", "[torch.randn(())]"),
        ("return torch.fft.fft(args[0])", "[torch.randn(16)]"),
        ("return args[0].t()", "[torch.randn(5, 7)]"),
        ("return args[0].expand(6, 5)", "[torch.randn(1, 5)]"),
        ("return args[0][:0]", "[torch.randn(5)]"),
        ("return torch.log(args[0])", "[torch.randn(64)]"),
        ("return args[0] / 0", "[torch.randn(64)]"),
        ("return args[0].double() * 3", "[torch.randn(64)]"),
        ("return args[0].bfloat16() * 3", "[torch.randn(64)]"),
        ("return args[0].to(torch.float8_e4m3fn)", "[torch.randn(64)]"),
        ("return sum(args[0])", "[[torch.randn(4), torch.randn(4)]]"),
    ],
)
def test_a_reference_is_accepted_as_its_own_candidate(
    compare: Compare, forward: str, inputs: str
) -> None:
    problem = reference(forward, inputs)
    judged = compare(problem, renamed(problem))
    assert judged.verdict == "accepted", (judged.fault, judged.checks)
    assert all(output.max_abs_error in (0.0, None) for output in judged.checks[0].outputs)


@pytest.mark.parametrize(
    "forward",
    [
        "return torch.nn.functional.dropout(args[0], 0.5)",
        "return args[0] + torch.randn_like(args[0])",
        "return torch.rand(args[0].shape, device=args[0].device)",
        "return args[0][torch.randperm(args[0].shape[0], device=args[0].device)]",
    ],
)
def test_random_operations_agree_because_the_generators_are_reseeded(
    compare: Compare, forward: str
) -> None:
    problem = reference(forward, "[torch.randn(64, 64)]")
    judged = compare(problem, renamed(problem))
    assert judged.verdict == "accepted", judged.checks


def test_models_with_parameters_and_buffers_are_built_from_the_same_seed(
    compare: Compare,
) -> None:
    problem = reference(
        "return self.norm(self.linear(args[0])) + self.shift",
        "[torch.randn(32, 8)]",
        init="self.linear = nn.Linear(*args[:2]); self.norm = nn.BatchNorm1d(args[1]); "
        "self.register_buffer('shift', torch.randn(args[1]))",
        init_inputs="[8, 16]",
    )
    bare = renamed(problem)
    bare["source_code"] = bare["source_code"].split("def get_inputs")[0]
    judged = compare(problem, bare)
    assert judged.verdict == "accepted", (judged.fault, judged.checks)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_train_and_eval_mode_can_be_asked_for(compare: Compare, mode: str) -> None:
    problem = reference("return torch.full_like(args[0], float(self.training))", "[torch.randn(4)]")
    expected = reference(
        f"return torch.full_like(args[0], {float(mode == 'train')})", "[torch.randn(4)]"
    )
    judged = compare(expected, renamed(problem) | {"metadata": {"mode": mode}})
    assert judged.verdict == "accepted", judged.checks


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return a - b", "out of tolerance"),
        ("return (a + b)[:-1]", "shape"),
        ("return (a + b).reshape(-1)", "shape"),
        ("return (a + b).double()", "dtype"),
        ("return a + b, a", "output(s)"),
        ("return []", "output(s)"),
        ("return None", "output(s)"),
        ("c = a + b; c[3, 5] += 1; return c", "first at [3, 5]"),
        ("c = a + b; c[0, 1] = float('nan'); return c", "NaN in different places"),
        ("c = a + b; c[0, 1] = float('inf'); return c", "infinities in different places"),
        ("return float((a + b).sum())", "a tensor is expected"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(compare: Compare, body: str, says: str) -> None:
    judged = compare(kernel(REFERENCE), candidate(body))
    assert judged.verdict == "wrong_answer", judged.fault
    assert says in judged.kernel_exec_result.validation_error
    assert judged.kernel_exec_result.compiled
    assert not judged.kernel_exec_result.correctness
    assert judged.speedup is None
    assert judged.ref_runtime.mean == 0


def test_error_statistics_are_those_of_the_difference(compare: Compare) -> None:
    judged = compare(
        reference("return args[0]", "[torch.arange(8.0)]"),
        candidate_of_one("c = a.clone(); c[2] += 3; c[4] -= 2; return c"),
    )
    (output,) = judged.checks[0].outputs
    assert output.max_abs_error == 3
    assert output.mean_abs_error == 5 / 8
    assert output.max_rel_error == 1.5
    assert output.mismatched_fraction == 2 / 8
    assert output.first_mismatch.index == [2]
    assert (output.first_mismatch.expected, output.first_mismatch.actual) == (2, 5)


def candidate_of_one(body: str) -> dict[str, Any]:
    return kernel(
        "import torch\nimport torch.nn as nn\n\n\nclass ModelNew(nn.Module):\n"
        f"    def forward(self, a):\n        {body}\n"
    )


def test_tolerances_of_the_request_decide(compare: Compare) -> None:
    near = candidate("return a + b + 0.005")
    assert compare(kernel(REFERENCE), near).verdict == "accepted"
    strict = compare(kernel(REFERENCE), near, atol=1e-4, rtol=1e-4)
    assert strict.verdict == "wrong_answer"
    assert (strict.tolerances.atol, strict.tolerances.rtol) == (1e-4, 1e-4)


def test_integers_are_exact_unless_a_tolerance_is_asked_for(compare: Compare) -> None:
    problem = reference("return args[0] + 1000", "[torch.randint(0, 9, (64,))]")
    off_by_one = candidate_of_one("return a + 1001")
    assert compare(problem, off_by_one).verdict == "wrong_answer"
    assert compare(problem, off_by_one, atol=1.0, rtol=0.0).verdict == "accepted"


def test_every_trial_has_other_values_and_the_seed_brings_them_back(compare: Compare) -> None:
    shown = candidate("print(float(a[0, 0])); return a + b")
    first = compare(kernel(REFERENCE), shown, num_checks=3, num_trials=1, seed=7)
    again = compare(kernel(REFERENCE), shown, num_checks=3, num_trials=1, seed=7)
    other = compare(kernel(REFERENCE), shown, num_checks=3, num_trials=1, seed=8)
    values = first.candidate.stdout.split()[:3]
    assert len(set(values)) == 3
    assert again.candidate.stdout.split()[:3] == values
    assert not set(other.candidate.stdout.split()[:3]) & set(values)
    assert first.seed == 7


def test_a_seed_is_drawn_and_reported_where_none_is_given(compare: Compare) -> None:
    shown = candidate("print(float(a[0, 0])); return a + b")
    drawn = compare(kernel(REFERENCE), shown, num_trials=1)
    again = compare(kernel(REFERENCE), shown, num_trials=1, seed=drawn.seed)
    assert again.candidate.stdout == drawn.candidate.stdout


@pytest.mark.parametrize(
    ("forward", "inputs", "warned"),
    [
        ("return args[0] * 1e-4", "[torch.randn(64)]", {"zeros", "mean", "other inputs"}),
        ("return args[0] * 1e-4 + 5", "[torch.randn(64)]", {"mean", "other inputs"}),
        ("return torch.arange(64.0, device=args[0].device)", "[torch.randn(64)]", {"other inputs"}),
        ("return args[0]", "[torch.randn(64)]", set()),
    ],
)
def test_a_task_that_cannot_tell_right_from_wrong_is_named(
    compare: Compare, forward: str, inputs: str, warned: set[str]
) -> None:
    problem = reference(forward, inputs)
    judged = compare(problem, renamed(problem))
    assert judged.verdict == "accepted"
    found = {
        word
        for word in ("zeros", "mean", "other inputs")
        if any(word in warning.partition(" would pass")[0] for warning in judged.task_warnings)
    }
    assert found == warned


def test_a_reference_without_output_is_no_reference(compare: Compare) -> None:
    judged = compare(reference("pass", "[torch.randn(4)]"), candidate_of_one("return a"))
    assert judged.verdict == "reference_failed"
    assert "nothing to compare" in judged.fault.message


def test_evaluate_says_that_a_kernel_runs_and_how_fast(client: Any) -> None:
    judged = client.evaluate(kernel(REFERENCE) | {"metadata": {"algorithm": "add"}}, num_trials=7)
    assert judged.verdict == "accepted"
    assert judged.kernel_exec_result.correctness
    stats = judged.kernel_exec_result.runtime_stats
    assert stats.min <= stats.median <= stats.percentile_95 <= stats.percentile_99 <= stats.max
    assert stats.std >= 0
    assert judged.candidate.clock.samples == 7
    assert judged.kernel_exec_result.metadata["algorithm"] == "add"
    assert judged.environment.torch


def test_the_clock_is_named(compare: Compare, device: str) -> None:
    judged = compare(kernel(REFERENCE), candidate("return b + a"))
    assert judged.candidate.clock.name == ("monotonic" if device == "cpu" else "cuda_graph")


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["gpu"], indirect=True)
def test_what_cannot_be_captured_is_timed_by_events_for_both(compare: Compare) -> None:
    judged = compare(kernel(REFERENCE), candidate("return a + b if float(a[0, 0]) < 1e9 else a"))
    assert judged.verdict == "accepted"
    assert judged.candidate.clock.name == "cuda_events"
    assert "capture" in judged.candidate.clock.fallback_reason
    assert judged.reference.clock.name == "cuda_events"
