"""What a client asks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kerneljudge.schema.base import Closed
from kerneljudge.schema.kernel import KernelCode, KernelType, Side, SourceCode

__all__ = [
    "DEFAULT_TOLERANCE",
    "CompareRequest",
    "EvaluateRequest",
    "JobRequest",
    "LegacyCompareRequest",
    "memory_bytes",
]

DEFAULT_TOLERANCE = 1e-2
"""Absolute and relative tolerance of floating-point outputs, where a request sets none."""

_Trials = Annotated[int, Field(ge=1, le=10_000)]
_Timeout = Annotated[float, Field(ge=5, le=600)]
_Tolerance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Measured(Closed):
    num_trials: _Trials = 100
    """Timed runs of each kernel."""
    num_warmup: Annotated[int, Field(ge=0, le=1000)] = 10
    """Untimed runs before them."""
    num_checks: Annotated[int, Field(ge=1, le=100)] = 2
    """Correctness trials, each on other values than the last."""
    timeout: _Timeout = 120
    """Seconds for the whole job, from its start on a device."""
    seed: _Seed | None = None
    """The seed that all values derive from which no contract fixes; drawn and reported if unset."""


class EvaluateRequest(_Measured):
    """Build, run and time one kernel."""

    kernel: KernelCode
    """The kernel."""

    @property
    def kernels(self) -> dict[Side, KernelCode]:
        """All kernels."""
        return {"candidate": self.kernel}


class CompareRequest(_Measured):
    """Check a candidate against a reference, and time both."""

    ref_kernel: KernelCode
    """The reference: what is right, and what to beat."""
    custom_kernel: KernelCode
    """The candidate."""
    atol: _Tolerance | None = None
    """Absolute tolerance; 1e-2 if unset."""
    rtol: _Tolerance | None = None
    """Relative tolerance; 1e-2 if unset."""
    exact_integers: bool | None = None
    """Whether integer outputs must be equal, whatever the tolerances; if unset, they must unless a
    tolerance is set."""

    @property
    def kernels(self) -> dict[Side, KernelCode]:
        """All kernels, the reference first."""
        return {"reference": self.ref_kernel, "candidate": self.custom_kernel}


class LegacyCompareRequest(Closed):
    """The older body of /compare: a `torch` reference against a `torch_cuda` candidate."""

    ref_code: SourceCode
    """Source of the reference, `class Model`."""
    custom_code: SourceCode
    """Source of the candidate, `class ModelNew`."""
    num_trials: _Trials = 100
    """Timed runs of each kernel."""
    timeout: _Timeout = 30
    """Seconds for the whole job."""

    def modern(self) -> CompareRequest:
        """The same request in today's form."""
        return CompareRequest(
            ref_kernel=KernelCode(source_code=self.ref_code, kernel_type=KernelType.TORCH),
            custom_kernel=KernelCode(
                source_code=self.custom_code, kernel_type=KernelType.TORCH_CUDA
            ),
            num_trials=self.num_trials,
            timeout=self.timeout,
        )


JobRequest = EvaluateRequest | CompareRequest


def memory_bytes(request: JobRequest) -> int:
    """Device memory that the contracts' tensors take: once for the judge, once for each kernel."""
    kernels = request.kernels.values()
    largest = max((kernel.io.nbytes for kernel in kernels if kernel.io is not None), default=0)
    return largest * (1 + len(kernels))
