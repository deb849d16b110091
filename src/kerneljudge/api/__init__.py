"""The HTTP interface. The application itself is `kerneljudge.api.app.create_app`.

This package exports the answers alone, so that a client reads them without a web framework.
"""

from kerneljudge.api.responses import (
    BrokenRuleResponse,
    CleanupResponse,
    CompareResponse,
    ErrorResponse,
    EvaluateResponse,
    HealthResponse,
    InvalidRequestResponse,
    JobResponse,
    JudgedResponse,
    KernelExecResult,
    Reply,
    RuntimeStatistics,
    ServerErrorResponse,
    StatsResponse,
    Tolerances,
    ValidationIssue,
)

__all__ = [
    "BrokenRuleResponse",
    "CleanupResponse",
    "CompareResponse",
    "ErrorResponse",
    "EvaluateResponse",
    "HealthResponse",
    "InvalidRequestResponse",
    "JobResponse",
    "JudgedResponse",
    "KernelExecResult",
    "Reply",
    "RuntimeStatistics",
    "ServerErrorResponse",
    "StatsResponse",
    "Tolerances",
    "ValidationIssue",
]
