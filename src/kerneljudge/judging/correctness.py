"""Whether two outputs agree, and by how much they do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kerneljudge.schema import ElementReport, OutputReport

__all__ = ["Output", "Tolerance", "compare", "compare_all", "indifferent", "warm_comparison"]

_CHUNK = 1 << 26
"""Elements compared at a time, which bounds the memory that comparing takes."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal: |actual - expected| ≤ atol + rtol · |expected|, torch.allclose's rule.

    NaN agrees with NaN, and an infinity with the same infinity, in the same place only.
    """

    atol: float
    rtol: float
    exact_integers: bool
    """Whether integers and bools must be equal, whatever the tolerance."""

    def of(self, dtype: torch.dtype) -> tuple[float, float]:
        """(atol, rtol) for a dtype."""
        if dtype is torch.bool or (self.exact_integers and not _is_inexact(dtype)):
            return 0.0, 0.0
        return self.atol, self.rtol


@dataclass
class Output:
    """One output of one run."""

    name: str
    """Argument name, or path in the returned value."""
    value: Any
    """A tensor on the judge's device, or a number, string or None."""
    device: str | None = None
    """Where a returned tensor was."""


def compare_all(
    expected: Sequence[Output], actual: Sequence[Output], tolerance: Tolerance
) -> tuple[list[OutputReport], str | None]:
    """A report an output, and what is wrong in a sentence, None if nothing is."""
    if len(expected) != len(actual):
        return [], (
            f"the reference gives {len(expected)} output(s) and the candidate {len(actual)}:"
            f" {_names(expected)} against {_names(actual)}"
        )
    reports = [
        compare(left, right, tolerance) for left, right in zip(expected, actual, strict=True)
    ]
    wrong = [report for report in reports if not report.matches]
    if not wrong:
        return reports, None
    return reports, "; ".join(f"{report.name}: {report.reason}" for report in wrong)


def compare(expected: Output, actual: Output, tolerance: Tolerance) -> OutputReport:
    """One output of the candidate against the reference's."""
    left, right = expected.value, actual.value
    if not isinstance(left, torch.Tensor):
        return _compare_plain(expected.name, left, right, tolerance)
    report = OutputReport(
        name=expected.name,
        shape=list(left.shape),
        dtype=str(left.dtype).removeprefix("torch."),
        matches=False,
    )
    if not isinstance(right, torch.Tensor):
        report.reason = f"a tensor is expected; the candidate gives {_describe(right)}"
    elif left.shape != right.shape:
        report.reason = (
            f"the shape is {list(right.shape)}; the reference's shape is {list(left.shape)}"
        )
    elif left.dtype != right.dtype:
        report.reason = f"the dtype is {right.dtype}; the reference's is {left.dtype}"
    elif expected.device and actual.device and expected.device != actual.device:
        report.reason = f"it is on {actual.device}; the reference's is on {expected.device}"
    else:
        _compare_elements(left, right, tolerance, report)
    return report


def indifferent(
    expected: Sequence[Output], other: Sequence[Output] | None, tolerance: Tolerance
) -> dict[str, bool]:
    """Which wrong answers would pass for `expected`: what it is → whether it would.

    `other` are the reference's outputs for other inputs. Outputs without floating-point values
    count by what is in them: a zero, the most frequent value's share plays no part.
    """
    tensors = [output for output in expected if isinstance(output.value, torch.Tensor)]
    tensors = [output for output in tensors if output.value.numel()]
    if not tensors:
        return {}

    def passes(substitute: Any) -> bool:
        return all(_matches(output.value, substitute(output), tolerance) for output in tensors)

    found = {
        "zeros": passes(lambda output: torch.zeros_like(output.value)),
        "the mean of the reference's output": passes(lambda output: _mean(output.value)),
    }
    if other is not None:
        reports, wrong = compare_all(expected, other, tolerance)
        found["the output for other inputs"] = bool(reports) and wrong is None
    return found


def warm_comparison(device: torch.device) -> None:
    """Compares a little, so that the first job does not wait for the device's code to be loaded."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64):
        tensor = torch.ones(2, device=device, dtype=dtype)
        outputs = [Output("output", tensor)]
        tolerance = Tolerance(0.0, 0.0, exact_integers=True)
        compare_all(outputs, [Output("output", tensor + 1)], tolerance)
        indifferent(outputs, outputs, tolerance)


def _mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of the finite elements, everywhere."""
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    mean = wide[torch.isfinite(wide)].mean()
    if not torch.isfinite(mean):
        mean = torch.zeros_like(mean)
    if not _is_inexact(tensor.dtype):
        mean = mean.round()
    return mean.to(tensor.dtype).expand(tensor.shape)


@dataclass(frozen=True)
class _Chunk:
    """A stretch of two tensors, element by element."""

    left: torch.Tensor
    right: torch.Tensor
    finite: torch.Tensor
    """Where both are."""
    difference: torch.Tensor
    within: torch.Tensor
    """Where they match."""


def _chunks(
    expected: torch.Tensor, actual: torch.Tensor, tolerance: Tolerance
) -> Iterator[tuple[int, _Chunk]]:
    """(position of the first element, elements) of stretches that need bounded memory."""
    atol, rtol = tolerance.of(expected.dtype)
    wide = _wide(expected.dtype)
    left_flat, right_flat = expected.reshape(-1), actual.reshape(-1)
    for start in range(0, expected.numel(), _CHUNK):
        left = left_flat[start : start + _CHUNK].to(wide)
        right = right_flat[start : start + _CHUNK].to(wide)
        finite = torch.isfinite(left) & torch.isfinite(right)
        difference = (right - left).abs()
        within = torch.where(
            finite,
            difference <= atol + rtol * left.abs(),
            (left == right) | (torch.isnan(left) & torch.isnan(right)),
        )
        if wide is torch.int64:
            # Distances wrap around at the ends of the range; equality does not.
            within &= (difference >= 0) | (left == right)
        yield start, _Chunk(left, right, finite, difference, within)


def _matches(expected: Any, actual: Any, tolerance: Tolerance) -> bool:
    """Whether two tensors of the same kind match, and nothing more: at the first that does not, it
    ends."""
    return all(bool(chunk.within.all()) for _, chunk in _chunks(expected, actual, tolerance))


def _compare_elements(
    expected: torch.Tensor, actual: torch.Tensor, tolerance: Tolerance, report: OutputReport
) -> None:
    """Fills in the error statistics, chunk by chunk."""
    count = expected.numel()
    atol, rtol = tolerance.of(expected.dtype)
    left_flat, right_flat = expected.reshape(-1), actual.reshape(-1)
    largest = total = relative = 0.0
    finite_count = wrong_count = 0
    first: int | None = None
    nan_differs = inf_differs = False
    for start, chunk in _chunks(expected, actual, tolerance):
        left, right, finite, within = chunk.left, chunk.right, chunk.finite, chunk.within
        errors = torch.where(finite, chunk.difference, 0).to(torch.float64)
        magnitude = left.abs().to(torch.float64)
        ratios = torch.where(finite & (magnitude > 0), errors / magnitude, 0)
        # One transfer: the device is waited for once.
        facts = torch.stack(
            [
                fact.to(torch.float64)
                for fact in (
                    errors.max(),
                    ratios.max(),
                    errors.sum(),
                    finite.sum(),
                    (~within).sum(),
                    (torch.isnan(left) != torch.isnan(right)).any(),
                    ((torch.isinf(left) | torch.isinf(right)) & ~within).any(),
                )
            ]
        ).tolist()
        largest, relative = max(largest, facts[0]), max(relative, facts[1])
        total += facts[2]
        finite_count += int(facts[3])
        wrong = int(facts[4])
        nan_differs |= bool(facts[5])
        inf_differs |= bool(facts[6])
        if wrong and first is None:
            first = start + int(torch.nonzero(~within)[0])
        wrong_count += wrong
    if finite_count:
        report.max_abs_error = largest
        report.mean_abs_error = total / finite_count
        report.max_rel_error = relative
    report.mismatched_fraction = wrong_count / count if count else 0.0
    report.matches = wrong_count == 0
    if first is None:
        return
    report.first_mismatch = ElementReport(
        index=_unravel(first, expected.shape),
        expected=_plain(left_flat[first]),
        actual=_plain(right_flat[first]),
    )
    if nan_differs:
        kind = "NaN in different places; "
    elif inf_differs:
        kind = "infinities in different places; "
    else:
        kind = ""
    report.reason = (
        f"{kind}{wrong_count} of {count} elements are out of tolerance (atol {atol:g},"
        f" rtol {rtol:g}), the largest difference is {largest:.6g}, the mean difference"
        f" {report.mean_abs_error if report.mean_abs_error is not None else math.nan:.6g}; first at"
        f" {report.first_mismatch.index}: expected {report.first_mismatch.expected}, got"
        f" {report.first_mismatch.actual}"
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    """A dtype that holds every value of `dtype` exactly, and differences well enough."""
    if dtype.is_complex:
        return torch.complex128
    if dtype in (torch.float64, torch.float32):
        # Differences of float32 are not exact in float32.
        return torch.float64
    return torch.float32 if dtype.is_floating_point else torch.int64


def _is_inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _compare_plain(name: str, left: Any, right: Any, tolerance: Tolerance) -> OutputReport:
    report = OutputReport(name=name, shape=[], dtype=type(left).__name__, matches=False)
    if type(left) is not type(right):
        report.reason = f"{_describe(left)} is expected; the candidate gives {_describe(right)}"
        return report
    if isinstance(left, float):
        both_nan = math.isnan(left) and math.isnan(right)
        close = math.isfinite(left) and math.isfinite(right)
        close = close and abs(right - left) <= tolerance.atol + tolerance.rtol * abs(left)
        report.matches = both_nan or left == right or close
    else:
        report.matches = left == right
    if not report.matches:
        report.reason = f"expected {left!r}, got {right!r}"
    return report


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{value!r}"[:200]


def _names(outputs: Sequence[Output]) -> str:
    return ", ".join(output.name for output in outputs[:8]) or "none"


def _unravel(position: int, shape: torch.Size) -> list[int]:
    index = []
    for size in reversed(shape):
        index.append(position % size)
        position //= size
    return index[::-1]


def _plain(element: torch.Tensor) -> float | int | bool | str:
    value = element.item()
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value
