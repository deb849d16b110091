"""What the service asks of the machinery that judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kerneljudge.schema import Environment, JobReport, JobRequest

__all__ = ["DeviceState", "Evaluator", "EvaluatorUnavailable"]


class EvaluatorUnavailable(Exception):
    """No device can take the job: the service's fault, never the kernel's."""


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


class Evaluator(Protocol):
    """Judges jobs on any number of devices."""

    def devices(self) -> list[DeviceState]:
        """Every configured device."""

    async def judge(
        self, job_id: str, request: JobRequest, progress: Callable[[JobReport], None]
    ) -> tuple[JobReport, int]:
        """Judges one job: its report and the index of the device.

        `progress` is called with each partial report. Raises `EvaluatorUnavailable`.
        """
