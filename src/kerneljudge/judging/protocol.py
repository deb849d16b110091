"""What the server and a judge say to each other. Both are trusted; the channel is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import Closed, CompareRequest, Environment, EvaluateRequest, JobReport

__all__ = [
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

    device: Literal["cuda", "cpu"]
    """What it judges on: of several GPUs it sees one, as number 0."""
    name: str
    """The device as the service calls it, such as `cuda:1`."""
    cache: Path
    """Folder of the build cache."""
    standby: int
    """Runners kept ready."""
    host_memory_bytes: int
    """Host memory that one runner or builder may use."""
    architecture: str | None = None
    """What CUDA is compiled for on a CPU device, such as `sm_90`."""


class Judge(Closed):
    """One job."""

    job_id: str
    request: EvaluateRequest | CompareRequest


class Started(Closed):
    """The judge takes jobs."""

    type: Literal["started"] = "started"
    environment: Environment
    layers: list[SandboxLayer]
    transport: str
    transport_reason: str | None


class Progress(Closed):
    """What is known of a job so far."""

    type: Literal["progress"] = "progress"
    job_id: str
    report: JobReport


class Done(Closed):
    """The verdict."""

    type: Literal["done"] = "done"
    job_id: str
    report: JobReport


ToJudge: TypeAdapter[Judge | JudgeConfiguration] = TypeAdapter(Judge | JudgeConfiguration)
FromJudge: TypeAdapter[Started | Progress | Done] = TypeAdapter(
    Annotated[Started | Progress | Done, Field(discriminator="type")]
)
