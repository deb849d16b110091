"""The service behind the API: settings, jobs, their store and their metrics."""

from kerneljudge.service.evaluator import DeviceState, Evaluator, EvaluatorUnavailable
from kerneljudge.service.jobs import CLEANUP_AGE, JobService
from kerneljudge.service.metrics import Metrics
from kerneljudge.service.settings import Settings
from kerneljudge.service.store import (
    Job,
    JobCounts,
    JobState,
    JobStore,
    MemoryJobStore,
    SubmittedKernel,
)

__all__ = [
    "CLEANUP_AGE",
    "DeviceState",
    "Evaluator",
    "EvaluatorUnavailable",
    "Job",
    "JobCounts",
    "JobService",
    "JobState",
    "JobStore",
    "MemoryJobStore",
    "Metrics",
    "Settings",
    "SubmittedKernel",
]
