"""What the server and a judge say to each other. Both are trusted; the channel is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import Closed, CompareRequest, Environment, EvaluateRequest, JobReport

__all__ = [
    "BuildEnded",
    "BuildGranted",
    "BuildWanted",
    "Cancel",
    "Done",
    "FromJudge",
    "Judge",
    "JudgeConfiguration",
    "Progress",
    "Started",
    "ToJudge",
]


class JudgeConfiguration(Closed):
    """How a judge is set up; the first message it gets."""

    type: Literal["configuration"] = "configuration"
    device: Literal["cuda", "cpu"]
    """What it judges on: of several GPUs it sees one, as number 0."""
    gpu: str | None
    """The GPU, as CUDA_VISIBLE_DEVICES names it; None for a CPU."""
    name: str
    """The device as the service calls it, such as `cuda:1`."""
    cache: Path
    """Folder of the build cache."""
    standby: int
    """Runners kept ready."""
    reference_runners: int
    """Runners of references kept for further jobs."""
    jobs: int
    """Jobs that it works on at once."""
    host_memory_bytes: int
    """Host memory that one runner or builder may use."""
    architecture: str | None = None
    """What CUDA is compiled for on a CPU device, such as `sm_90`."""


class Judge(Closed):
    """One job."""

    type: Literal["judge"] = "judge"
    job_id: str
    request: EvaluateRequest | CompareRequest


class Cancel(Closed):
    """A job is wanted no more: the judge lets go of it and answers with `Done`."""

    type: Literal["cancel"] = "cancel"
    job_id: str


class BuildGranted(Closed):
    """The judge may begin the build that it wanted."""

    type: Literal["build_granted"] = "build_granted"
    number: int


class Started(Closed):
    """The judge takes jobs."""

    type: Literal["started"] = "started"
    environment: Environment
    layers: list[SandboxLayer]
    transport: str
    transport_reason: str | None
    memory_bytes: int
    """Memory of the device; of the host, for a CPU."""


class Progress(Closed):
    """What is known of a job so far."""

    type: Literal["progress"] = "progress"
    job_id: str
    report: JobReport


class Done(Closed):
    """The verdict, or the end of a job that was cancelled."""

    type: Literal["done"] = "done"
    job_id: str
    report: JobReport | None
    """Null where the job was cancelled before there was a verdict."""


class BuildWanted(Closed):
    """The judge has something to build."""

    type: Literal["build_wanted"] = "build_wanted"
    number: int
    """Its own, of this one build."""


class BuildEnded(Closed):
    """The build is over, or wanted no more."""

    type: Literal["build_ended"] = "build_ended"
    number: int


ToJudge: TypeAdapter[JudgeConfiguration | Judge | Cancel | BuildGranted] = TypeAdapter(
    Annotated[
        JudgeConfiguration | Judge | Cancel | BuildGranted,
        Field(discriminator="type"),
    ]
)
FromJudge: TypeAdapter[Started | Progress | Done | BuildWanted | BuildEnded] = TypeAdapter(
    Annotated[
        Started | Progress | Done | BuildWanted | BuildEnded,
        Field(discriminator="type"),
    ]
)
