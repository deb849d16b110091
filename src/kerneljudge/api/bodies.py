"""Request bodies: read within bounds, and checked off the event loop."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Request
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kerneljudge.api.responses import (
    BrokenRuleResponse,
    InvalidRequestResponse,
    ValidationIssue,
)
from kerneljudge.schema import CompareRequest, EvaluateRequest, KernelCode, LegacyCompareRequest

__all__ = ["COMPARE", "EVALUATE", "Body", "BodyError", "BodyTooLarge"]

_Parsed = TypeVar("_Parsed")
_MAX_LISTED = 100
_KERNEL_FIELDS = frozenset({"kernel", "ref_kernel", "custom_kernel"})
_PYDANTIC_PREFIX = re.compile(r"^Value error, ")


class BodyError(Exception):
    """The body is no acceptable request; `answer` is what HTTP 400 says of it."""

    def __init__(self, answer: InvalidRequestResponse | BrokenRuleResponse) -> None:
        super().__init__(answer.error)
        self.answer = answer


class BodyTooLarge(Exception):
    """The body is longer than this server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request body is larger than {limit} bytes")
        self.limit = limit


class Body(Generic[_Parsed]):
    """Reads bodies of one type."""

    def __init__(self, adapter: TypeAdapter[_Parsed], tags: frozenset[str] = frozenset()) -> None:
        """Reads what the `adapter` validates; `tags` name its union's members in error paths."""
        self._adapter = adapter
        self._tags = tags

    async def read(self, request: Request, limit: int) -> _Parsed:
        """The body, parsed and checked.

        Raises `BodyTooLarge` above `limit` bytes, and `BodyError` for what is no request. A body
        of megabytes is checked in a thread, so that the event loop goes on.
        """
        raw = await _bounded(request, limit)
        return await asyncio.to_thread(self._parse, raw)

    def _parse(self, raw: bytes | bytearray) -> _Parsed:
        try:
            return self._adapter.validate_json(raw)
        except ValidationError as error:
            raise BodyError(self._answer(error)) from None

    def _answer(self, error: ValidationError) -> InvalidRequestResponse | BrokenRuleResponse:
        count = error.error_count()
        if count > _MAX_LISTED:
            # A list of millions would cost more than the request.
            message = f"{count} mistakes, too many to list: is this body meant for this address?"
            issue = ValidationIssue(field="body", message=message, type="too_many_errors")
            return InvalidRequestResponse(validation_errors=[issue])
        problems = [
            (self._path(problem), problem)
            for problem in error.errors(include_url=False, include_input=False)
        ]
        if all(_breaks_a_rule(path, problem) for path, problem in problems):
            return BrokenRuleResponse(
                error="; ".join(_message(problem) for _, problem in problems),
                details=f"at {', '.join(_joined(path) for path, _ in problems)}",
            )
        return InvalidRequestResponse(
            validation_errors=[
                ValidationIssue(
                    field=_joined(path), message=_message(problem), type=problem["type"]
                )
                for path, problem in problems
            ]
        )

    def _path(self, problem: ErrorDetails) -> tuple[int | str, ...]:
        path = problem["loc"]
        if path and path[0] in self._tags:
            path = path[1:]
        if (
            len(path) > 1
            and path[0] in _KERNEL_FIELDS
            and path[1] not in KernelCode.model_fields
            and problem["type"] != "extra_forbidden"
        ):
            # Metadata is read by the options of the kernel type, inside a validator of the kernel.
            path = (path[0], "metadata", *path[1:])
        return ("body", *path)


async def _bounded(request: Request, limit: int) -> bytearray:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limit:
            raise BodyTooLarge(limit)
    return raw


def _breaks_a_rule(path: tuple[int | str, ...], problem: ErrorDetails) -> bool:
    """Whether every field is well formed and a rule between a kernel's fields is broken."""
    return problem["type"] == "value_error" and path[-1] in _KERNEL_FIELDS


def _message(problem: ErrorDetails) -> str:
    return _PYDANTIC_PREFIX.sub("", problem["msg"])


def _joined(path: tuple[int | str, ...]) -> str:
    return " -> ".join(str(part) for part in path)


def _form(value: Any) -> str:
    legacy = isinstance(value, dict) and ("ref_code" in value or "custom_code" in value)
    return "legacy" if legacy else "modern"


EVALUATE = Body(TypeAdapter(EvaluateRequest))
"""Reads the body of POST /evaluate."""

_Modern = Annotated[CompareRequest, Tag("modern")]
_Legacy = Annotated[LegacyCompareRequest, Tag("legacy")]
COMPARE: Body[CompareRequest | LegacyCompareRequest] = Body(
    TypeAdapter(Annotated[_Modern | _Legacy, Discriminator(_form)]),
    tags=frozenset({"modern", "legacy"}),
)
"""Reads the body of POST /compare, in today's form or in the older one."""
