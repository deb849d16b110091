"""What goes wrong between a client and a server. A kernel that fails is a result, not an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kerneljudge.api import ValidationIssue

__all__ = ["KernelJudgeError", "RequestError", "ServerError"]


class KernelJudgeError(Exception):
    """No result came back. The message has the server's own words."""

    def __init__(self, message: str, *, status_code: int | None = None, body: Any = None) -> None:
        """Keeps the HTTP status and the decoded body, where there were any."""
        super().__init__(message)
        self.status_code = status_code
        """The HTTP status; None where no answer came."""
        self.body = body
        """The decoded JSON body; None where there was none."""


class RequestError(KernelJudgeError):
    """The server does not take the request (HTTP 4xx): mend it before sending it again."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        body: Any = None,
        validation_errors: Sequence[ValidationIssue] = (),
    ) -> None:
        """Keeps every mistake that the server found."""
        super().__init__(message, status_code=status_code, body=body)
        self.validation_errors = list(validation_errors)
        """Every mistake that the server found, each with the path of its field."""


class ServerError(KernelJudgeError):
    """The server failed or cannot be reached: the same request may succeed later."""
