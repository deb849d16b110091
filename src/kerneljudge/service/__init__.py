"""The service behind the API: settings, access, jobs, their scheduling, their store, metrics."""

from kerneljudge.service.access import ApiKey, Caller, KeyRing, RateLimiter, Scope
from kerneljudge.service.errors import (
    DatabaseUnusable,
    Draining,
    IdempotencyConflict,
    QueueFull,
    QuotaExceeded,
    Refused,
    ServiceError,
    TooMuchMemory,
)
from kerneljudge.service.evaluator import (
    DeviceHealth,
    DeviceState,
    Evaluator,
    EvaluatorUnavailable,
)
from kerneljudge.service.jobs import CLEANUP_AGE, JobService
from kerneljudge.service.metrics import Metrics
from kerneljudge.service.records import (
    ANONYMOUS,
    Job,
    JobCounts,
    JobEvent,
    JobFilter,
    JobKind,
    JobPage,
    JobState,
    Lease,
    QueuedJob,
    Submission,
    SubmittedKernel,
)
from kerneljudge.service.settings import Settings
from kerneljudge.service.store import JobStore, KeyStore, Renewal, SqlStore, StoreLimits

__all__ = [
    "ANONYMOUS",
    "CLEANUP_AGE",
    "ApiKey",
    "Caller",
    "DatabaseUnusable",
    "DeviceHealth",
    "DeviceState",
    "Draining",
    "Evaluator",
    "EvaluatorUnavailable",
    "IdempotencyConflict",
    "Job",
    "JobCounts",
    "JobEvent",
    "JobFilter",
    "JobKind",
    "JobPage",
    "JobService",
    "JobState",
    "JobStore",
    "KeyRing",
    "KeyStore",
    "Lease",
    "Metrics",
    "QueueFull",
    "QueuedJob",
    "QuotaExceeded",
    "RateLimiter",
    "Refused",
    "Renewal",
    "Scope",
    "ServiceError",
    "Settings",
    "SqlStore",
    "StoreLimits",
    "Submission",
    "SubmittedKernel",
    "TooMuchMemory",
]
