"""The words a judgement is told in: verdicts, phases, faults, and the report of a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from kerneljudge.schema.base import Closed
from kerneljudge.schema.kernel import Side

__all__ = [
    "GPU_TYPES",
    "BuildReport",
    "CheckReport",
    "ClockReport",
    "ElementReport",
    "Environment",
    "Fault",
    "FaultKind",
    "JobReport",
    "OutputReport",
    "Phase",
    "RuntimeStats",
    "SideReport",
    "Verdict",
]


GPU_TYPES = ("a100", "h100", "h200")
"""The GPU types that are told by name, as the manual has them."""


class FaultKind(StrEnum):
    """How one kernel failed."""

    REFUSED = "refused"
    """The source breaks a rule of its kernel type; nothing was run."""
    COMPILE_ERROR = "compile_error"
    """It does not compile, import or construct."""
    RUNTIME_ERROR = "runtime_error"
    """It raised, or the device reported an error."""
    OUT_OF_MEMORY = "out_of_memory"
    """It asked for more host or device memory than there is for it."""
    TIMEOUT = "timeout"
    """It did not end in time."""
    OUTPUT_LIMIT = "output_limit"
    """It printed more than it may."""
    CRASHED = "crashed"
    """Its process died: a signal, `os._exit`, an abort."""
    PROTOCOL_ERROR = "protocol_error"
    """Its process sent something that is no answer to what it was asked."""
    UNSUPPORTED = "unsupported"
    """It compiles, and this device cannot run it."""


class Verdict(StrEnum):
    """The one word for a job, in the order in which tables and pages show them."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    COMPILE_ERROR = "compile_error"
    RUNTIME_ERROR = "runtime_error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    PROTOCOL_ERROR = "protocol_error"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    REFERENCE_FAILED = "reference_failed"
    """The reference failed; nothing is said of the candidate."""
    INTERNAL_ERROR = "internal_error"
    """The judge failed; nothing is said of any kernel."""


class Phase(StrEnum):
    """The steps of a job, in order."""

    READ = "read"
    """Static rules of the kernel type."""
    BUILD = "build"
    """Compilation, from the cache or not."""
    LOAD = "load"
    """Import and construction in the runner."""
    CHECK = "check"
    """Correctness trials."""
    PROFILE = "profile"
    """Timed runs."""
    DONE = "done"
    """All of them passed."""


class Fault(Closed):
    """One failure of one kernel."""

    kind: FaultKind
    """What happened."""
    side: Side
    """Whose fault it is."""
    phase: Phase
    """Where it happened."""
    message: str
    """What was wrong, for the author of the kernel."""
    hint: str | None = None
    """How to mend it."""
    traceback: str | None = None
    """The submitted code's own traceback or the compiler's log."""
    exit_code: int | None = None
    """Exit code of the process, negative for a signal, where it died."""


class RuntimeStats(Closed):
    """Statistics of the timed runs, in milliseconds, rounded to 3 decimals in responses."""

    mean: float = 0.0
    """Arithmetic mean."""
    std: float = 0.0
    """Population standard deviation."""
    min: float = 0.0
    """Fastest run."""
    max: float = 0.0
    """Slowest run."""
    median: float = 0.0
    """Half of the runs are faster."""
    percentile_95: float = 0.0
    """95 % of the runs are faster, linear interpolation."""
    percentile_99: float = 0.0
    """99 % of the runs are faster, linear interpolation."""


class ClockReport(Closed):
    """What timed a kernel."""

    name: Literal["cuda_graph", "cuda_events", "monotonic"]
    """`cuda_graph`: events around replays of a captured graph; `cuda_events`: events around
    calls; `monotonic`: the host's clock around calls."""
    fallback_reason: str | None = None
    """Why the preferred clock was not used."""
    warmup: int
    """Untimed runs before."""
    samples: int
    """Timed runs."""


class BuildReport(Closed):
    """How a kernel was compiled."""

    way: Literal["none", "jit", "nvrtc", "nvcc", "fast"]
    """`none`: nothing to compile; `jit`: by Triton, CuPy or torch in the runner; `nvrtc`, `nvcc`:
    device code only; `fast`: NVRTC for the device code and g++ for the wrapper."""
    reason: str | None = None
    """Why this way."""
    cached: bool = False
    """Whether every artefact came from the cache."""
    hits: int = 0
    """Builds that came from the cache."""
    misses: int = 0
    """Builds that did not, failed ones among them."""
    seconds: float = 0.0
    """Time spent waiting for builds."""
    architecture: str | None = None
    """The target, such as `sm_90`."""
    log: str | None = None
    """The compilers' warnings."""


class ElementReport(Closed):
    """One element of an output that is out of tolerance."""

    index: list[int]
    """Its index."""
    expected: float | int | bool | str
    """The reference's value; NaN and infinities as text."""
    actual: float | int | bool | str
    """The candidate's value; likewise."""


class OutputReport(Closed):
    """How one output of one trial compares."""

    name: str
    """Argument name, or path in the returned value, such as `output[0]`."""
    shape: list[int]
    """Shape of the reference's output."""
    dtype: str
    """Its dtype."""
    matches: bool
    """Whether it is within tolerance."""
    reason: str | None = None
    """Why not: the rule that is broken."""
    max_abs_error: float | None = None
    """Largest absolute difference, over elements finite on both sides."""
    mean_abs_error: float | None = None
    """Mean absolute difference, over the same."""
    max_rel_error: float | None = None
    """Largest difference relative to the reference, over those of them where it is not 0."""
    mismatched_fraction: float | None = None
    """Share of elements out of tolerance, 0 to 1."""
    first_mismatch: ElementReport | None = None
    """The first of them, in row-major order."""


class CheckReport(Closed):
    """One correctness trial."""

    trial: int
    """Counted from 0."""
    seed: int
    """The seed of its inputs and of the random generators."""
    passed: bool
    """Whether every output matches (for /evaluate: whether it ran)."""
    outputs: list[OutputReport] = Field(default_factory=list)
    """One entry an output; empty for /evaluate."""
    message: str | None = None
    """What does not match, in a sentence."""


class SideReport(Closed):
    """What is known of one kernel."""

    compiled: bool = False
    """Whether it was built and loaded."""
    kernel_name: str | None = None
    """What was launched."""
    build: BuildReport | None = None
    """How it was compiled."""
    fault: Fault | None = None
    """How it failed, if it did."""
    runtime: RuntimeStats | None = None
    """Its times, if it was profiled."""
    samples_ms: list[float] = Field(default_factory=list)
    """Every timed run in milliseconds, in order, rounded to 6 decimals: `num_trials` of them."""
    clock: ClockReport | None = None
    """What timed it."""
    notes: list[str] = Field(default_factory=list)
    """What to know of how it was launched."""
    reused: int = Field(default=0, ge=0)
    """Comparisons that its process had served before, all of the very same reference; 0 for a
    process of its own, which a candidate always has."""
    stdout: str = ""
    """The end of what it printed."""


class Environment(Closed):
    """Where the job ran. Every field is what that machine reported; null where it has none."""

    kerneljudge: str
    """Version of this package."""
    python: str
    """Version of Python."""
    torch: str | None = None
    """Version of PyTorch."""
    triton: str | None = None
    """Version of Triton."""
    cupy: str | None = None
    """Version of CuPy."""
    cuda: str | None = None
    """CUDA version that torch was built for."""
    driver: str | None = None
    """Version of the NVIDIA driver."""
    device: str
    """`cuda:0`, `cpu`…"""
    device_name: str
    """The GPU's or the processor's name."""
    gpu_type: str | None = None
    """`a100`, `h100` or `h200` where recognised."""
    architecture: str | None = None
    """Compute capability, such as `sm_90`."""


class JobReport(Closed):
    """All that the judge found out about a job, also when it ended early."""

    verdict: Verdict
    """The word."""
    phase: Phase
    """The phase reached."""
    fault: Fault | None = None
    """The failure that decided the verdict."""
    candidate: SideReport
    """The candidate, or the sole kernel of /evaluate."""
    reference: SideReport | None = None
    """The reference of /compare."""
    checks: list[CheckReport] = Field(default_factory=list)
    """The correctness trials that ran."""
    atol: float | None = None
    """Absolute tolerance used."""
    rtol: float | None = None
    """Relative tolerance used."""
    exact_integers: bool | None = None
    """Whether integer and bool outputs were compared exactly."""
    seed: int
    """The job's seed: send it again to get the same values."""
    inputs_from: dict[str, str] = Field(default_factory=dict)
    """For each input of the candidate, where its values came from."""
    transport: Literal["cuda_ipc", "shared_memory", "host_staging"] | None = None
    """How tensors crossed between the judge and the runners."""
    transport_reason: str | None = None
    """Why not the preferred transport."""
    speedup: float | None = None
    """Mean time of the reference over mean time of the candidate."""
    task_warnings: list[str] = Field(default_factory=list)
    """What a wrong kernel could return and still pass this task."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    """Wall time of each phase, both kernels together. A build that a kernel asks for later counts
    for the phase `build`; waiting for the device counts for none."""
    environment: Environment | None = None
    """Where it ran."""
    error: str | None = None
    """For `internal_error`: what failed in the judge."""
