"""What the service asks of the machinery that judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import Environment, JobReport, JobRequest

__all__ = ["DeviceHealth", "DeviceState", "Evaluator", "EvaluatorUnavailable"]


class EvaluatorUnavailable(Exception):
    """The device did not judge the job: the service's fault, never the kernel's. Another, or the
    same a little later, may."""


class DeviceHealth(StrEnum):
    """Whether a device takes jobs."""

    STARTING = "starting"
    """Its judge is being started."""
    READY = "ready"
    """It takes jobs."""
    QUARANTINED = "quarantined"
    """It failed again and again; it takes none until it has passed a self-test."""
    STOPPED = "stopped"
    """It takes none any more."""


@dataclass
class DeviceState:
    """One device as the service sees it."""

    index: int
    """Its position in the service's list."""
    name: str
    """`cuda:0`, `cpu`…"""
    ready: bool
    """Whether its judge takes jobs."""
    environment: Environment | None
    """What the judge reported of it, once it is ready."""
    jobs: int = 0
    """Jobs on it now."""
    capacity: int = 8
    """Jobs that may be on it at once: one measured, the others read, built and loaded."""
    memory_bytes: int | None = None
    """Memory of the device (of the host, for a CPU), once it is known."""
    health: DeviceHealth = DeviceHealth.READY
    """Whether it takes jobs, and why not."""
    reason: str | None = None
    """What made it unready, in words."""
    layers: list[SandboxLayer] = field(default_factory=list)
    """The layers of confinement that its runners have or lack, once it has been ready."""


class Evaluator(Protocol):
    """Judges jobs on any number of devices."""

    def devices(self) -> list[DeviceState]:
        """Every configured device."""

    def builders(self) -> dict[str, int]:
        """How many builds may run at once (`size`), how many do (`busy`), how many `waiting`."""

    async def judge(
        self,
        job_id: str,
        request: JobRequest,
        progress: Callable[[JobReport], None],
        device: int,
    ) -> JobReport:
        """Judges one job on a device, by its index.

        `progress` is called with each partial report. Raises `EvaluatorUnavailable` where the
        device does not judge it, or its judge died during it. A cancelled call returns when the
        judge has let go of the job: its processes are gone, and the device is free.
        """

    def on_change(self, call: Callable[[], None]) -> None:
        """Has `call` called, on the event loop, whenever a device becomes ready or unready."""
