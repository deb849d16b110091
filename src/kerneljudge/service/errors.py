"""Why the service does not do what it is asked. None of these is a kernel's fault."""

from __future__ import annotations

__all__ = [
    "DatabaseUnusable",
    "Draining",
    "IdempotencyConflict",
    "QueueFull",
    "QuotaExceeded",
    "Refused",
    "ServiceError",
    "TooMuchMemory",
]


class ServiceError(Exception):
    """The service cannot do what it is asked. Its message says why, and what to do."""


class Refused(ServiceError):
    """The client's own request, or its rate of requests, is not acceptable."""


class QueueFull(Refused):
    """As many jobs wait as may (HTTP 429)."""

    def __init__(self, message: str, retry_after: float) -> None:
        """`retry_after`: seconds after which a place may be free."""
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which to try again."""


class QuotaExceeded(QueueFull):
    """The client has as many unfinished jobs, or sends as many requests, as it may (HTTP 429)."""


class IdempotencyConflict(Refused):
    """The same idempotency key came with another request before (HTTP 409)."""


class TooMuchMemory(Refused):
    """No device of this server has the memory that the contract's tensors take (HTTP 400)."""


class Draining(ServiceError):
    """The server is stopping and takes no more jobs (HTTP 503)."""


class DatabaseUnusable(ServiceError):
    """The database cannot be reached, is another's, or is of a newer version."""
