"""What a judge and its runners, builders and zygote say to each other.

Every answer repeats the `request` it answers; one that does not is a broken protocol. A slot is
one set of arguments in shared memory: today a job has one, and the messages name it, so that a
timed window may rotate over several.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import FailFast, Field, TypeAdapter

from kerneljudge.building.requests import BuildResult, DeviceBuild, ExtensionBuild
from kerneljudge.runtime.values import Size, TensorMeta, Value
from kerneljudge.schema import Closed, KernelCode, Phase, Side

__all__ = [
    "Attach",
    "Attached",
    "Build",
    "Built",
    "Collect",
    "Collected",
    "Exited",
    "ExportedTensor",
    "Failed",
    "Fork",
    "Forked",
    "FromBuilder",
    "FromJudge",
    "FromRunner",
    "FromZygote",
    "Load",
    "Loaded",
    "Made",
    "MakeInputs",
    "Placement",
    "Preparation",
    "Proceed",
    "Profile",
    "Profiled",
    "Ran",
    "Ready",
    "Region",
    "Rest",
    "Rested",
    "Run",
    "SandboxLayer",
    "SlotLayout",
    "ToBuilder",
    "ToRunner",
    "ToZygote",
    "Waiting",
    "ZygoteReady",
]

_Text = Annotated[str, Field(max_length=200_000)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]

Preparation = Literal["launches", "operators", "streams"]
"""What a runner is prepared for before it is given a kernel, each for all that the last is for.

`launches`: kernels that the runner itself launches, one after another, on one stream.
`operators`: Python that calls torch's operators on one stream; cuBLAS is opened ahead.
`streams`: Python that may use several streams; its context has CUDA's usual hardware queues."""


class _Request(Closed):
    request: int
    """The number that the answer repeats."""


# --- memory


class Region(Closed):
    """A stretch of memory that the judge owns and shares."""

    kind: Literal["cuda_ipc", "shared_memory", "host_staging"]
    """`cuda_ipc`: device memory, by handle; `shared_memory`: host memory, by descriptor;
    `host_staging`: the same, mirrored in the runner's own device memory."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    handle: str | None = None
    """The CUDA IPC handle, base64."""


class Placement(Closed):
    """Where a tensor lies in a region."""

    dtype: str
    """torch's name of it."""
    shape: list[int]
    """Its sizes."""
    strides: list[int]
    """Its strides, in elements."""
    offset: int
    """Bytes from the start of the region."""


class SlotLayout(Closed):
    """One set of arguments: a list whose tensors are those of `placements`."""

    arguments: Value
    """The argument list."""
    placements: list[Placement]
    """Its tensors."""


class ExportedTensor(Closed):
    """A runner's tensor, by handle of the allocation that it lies in."""

    handle: Annotated[str, Field(max_length=128)]
    """CUDA IPC handle, base64."""
    offset: Annotated[int, Field(ge=0)]
    """Bytes from the start of the allocation."""
    strides: Annotated[list[Size], FailFast(), Field(max_length=64)]
    """In elements."""


# --- judge to runner


class Load(_Request):
    """Execute the source and find what to call."""

    type: Literal["load"] = "load"
    kernel: KernelCode
    """The kernel; its contract holds shapes and scalars, and neither seeds nor data."""
    side: Side
    """Which of the two."""
    seed: _Seed
    """For the generators, before the source is executed and a model constructed."""
    built: list[BuildResult] = Field(default_factory=list)
    """What was built ahead; paths are in the runner's scratch folder."""
    init_inputs: Value | None = None
    """The reference's constructor arguments, for a candidate that has none of its own."""


class MakeInputs(_Request):
    """Call the source's own `get_inputs`."""

    type: Literal["make_inputs"] = "make_inputs"
    seed: _Seed
    """Set before the call."""


class Attach(_Request):
    """Open shared memory (descriptor beside the message, except for CUDA IPC) with its slots."""

    type: Literal["attach"] = "attach"
    region: Region
    slots: list[SlotLayout]
    names: list[str] | None = None
    """Names of the arguments, where they are passed by keyword."""


class Run(_Request):
    """Run the kernel once on a slot, to its end."""

    type: Literal["run"] = "run"
    slot: int
    seed: _Seed
    """For the generators, before the call."""


class Collect(_Request):
    """Give the tensors that the last `run` or `make_inputs` counted."""

    type: Literal["collect"] = "collect"
    region: Region | None
    """Where to copy them, with the descriptor beside; null: export them by handle."""
    placements: list[Placement] = Field(default_factory=list)
    """Where each goes in the region."""


class Profile(_Request):
    """Time the kernel."""

    type: Literal["profile"] = "profile"
    slots: list[int]
    """The slots to run on, in turn."""
    seed: _Seed
    """For the generators, before the first run."""
    warmup: int
    """Untimed runs first."""
    samples: int
    """Timed runs."""
    clock: Literal["auto", "cuda_events"] = "auto"
    """`auto`: a captured graph where it can be had."""


class Rest(_Request):
    """Let go of the kernel and of its results, and keep the arguments' memory: the same source may
    be loaded again, for another job."""

    type: Literal["rest"] = "rest"


class Built(_Request):
    """The answer to a runner's `build`."""

    type: Literal["built"] = "built"
    result: BuildResult


class Proceed(_Request):
    """Answers `Waiting`: nothing is measured until the next message."""

    type: Literal["proceed"] = "proceed"


ToRunner = Annotated[
    Proceed | Load | MakeInputs | Attach | Run | Collect | Profile | Rest | Built,
    Field(discriminator="type"),
]
FromJudge: TypeAdapter[ToRunner] = TypeAdapter(ToRunner)


# --- runner to judge


class SandboxLayer(Closed):
    """One layer of confinement."""

    name: Annotated[str, Field(max_length=64)]
    active: bool
    reason: Annotated[str, Field(max_length=1000)] | None = None
    """Why not."""


class Waiting(Closed):
    """Sent by the trusted start of a runner before each step that would disturb a measurement."""

    type: Literal["waiting"] = "waiting"


class Ready(Closed):
    """Sent by the trusted start of a runner, before it reads any source."""

    type: Literal["ready"] = "ready"
    layers: Annotated[list[SandboxLayer], Field(max_length=32)]


class Loaded(_Request):
    """The kernel can be called."""

    type: Literal["loaded"] = "loaded"
    kernel_name: Annotated[str, Field(max_length=1000)]
    init_inputs: Value | None = None
    """What `get_init_inputs` gave."""
    notes: Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=16)] = Field(
        default_factory=list
    )
    """What the reader of the result should know of how it is launched."""


class Made(_Request):
    """Inputs were made."""

    type: Literal["made"] = "made"
    value: Value
    """The list of arguments."""
    names: Annotated[list[str], Field(max_length=4096)] | None = None
    """Their names, where they are to be passed by keyword."""
    tensors: Annotated[list[TensorMeta], FailFast(), Field(max_length=4096)]


class Attached(_Request):
    """The memory is mapped."""

    type: Literal["attached"] = "attached"


class Ran(_Request):
    """The kernel ran to its end."""

    type: Literal["ran"] = "ran"
    value: Value
    """What it returned."""
    tensors: Annotated[list[TensorMeta], FailFast(), Field(max_length=4096)]


class Collected(_Request):
    """The tensors can be read."""

    type: Literal["collected"] = "collected"
    exports: Annotated[list[ExportedTensor], FailFast(), Field(max_length=4096)] = Field(
        default_factory=list
    )
    failure: _Text | None = None
    """Why they could not be exported by handle."""


class Profiled(_Request):
    """The device-side samples."""

    type: Literal["profiled"] = "profiled"
    clock: Literal["cuda_graph", "cuda_events", "monotonic"]
    fallback_reason: Annotated[str, Field(max_length=10_000)] | None = None
    samples_ms: Annotated[
        list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        FailFast(),
        Field(max_length=10_000),
    ]


class Rested(_Request):
    """The memory of the kernel and of its results is free."""

    type: Literal["rested"] = "rested"


class Failed(_Request):
    """The submitted code failed."""

    type: Literal["failed"] = "failed"
    kind: Literal["refused", "compile_error", "runtime_error", "out_of_memory", "unsupported"]
    phase: Phase
    message: _Text
    hint: _Text | None = None
    traceback: _Text | None = None


class Build(_Request):
    """The submitted code asks for an extension to be built; `built` answers."""

    type: Literal["build"] = "build"
    build: Annotated[DeviceBuild | ExtensionBuild, Field(discriminator="kind")]


_OfRunner = Annotated[
    Waiting
    | Ready
    | Loaded
    | Made
    | Attached
    | Ran
    | Collected
    | Profiled
    | Rested
    | Failed
    | Build,
    Field(discriminator="type"),
]
FromRunner: TypeAdapter[_OfRunner] = TypeAdapter(_OfRunner)


# --- judge and builder

ToBuilder: TypeAdapter[Build] = TypeAdapter(Build)
FromBuilder: TypeAdapter[Built] = TypeAdapter(Built)


# --- judge and zygote


class Fork(_Request):
    """Start a process; its channel and its output pipe come beside the message."""

    type: Literal["fork"] = "fork"
    role: Literal["runner", "builder"]
    scratch: str
    """Its folder, made by the judge."""
    uid: int | None
    """The user it becomes, where the service is root."""
    device: Literal["cuda", "cpu"]
    """What a runner runs on."""
    preparation: Preparation = "operators"
    """What a runner is prepared for."""
    max_data_bytes: int | None = None
    """Private host memory that it may have."""
    include_cache: str
    """The folder of precompiled headers, for builders to read."""
    triton_seed: str
    """The Triton cache of the trusted start of a runner, which it compiles its own kernel into."""


class Forked(_Request):
    """It runs; a pidfd comes beside the message."""

    type: Literal["forked"] = "forked"
    pid: int


class Exited(Closed):
    """A process ended, and none that it started is left."""

    type: Literal["exited"] = "exited"
    pid: int
    exit_code: int
    """Negative for a signal."""


class ZygoteReady(Closed):
    """The imports are done."""

    type: Literal["zygote_ready"] = "zygote_ready"


ToZygote: TypeAdapter[Fork] = TypeAdapter(Fork)
FromZygote: TypeAdapter[Forked | Exited | ZygoteReady] = TypeAdapter(
    Annotated[Forked | Exited | ZygoteReady, Field(discriminator="type")]
)
