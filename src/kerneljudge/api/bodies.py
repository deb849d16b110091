"""Request bodies: read within bounds, and checked off the event loop where they are large."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import HTTPException, Request
from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from kerneljudge.api.limits import AnyRequest, Breach, breaches, fitted
from kerneljudge.api.responses import (
    BrokenRuleResponse,
    InvalidRequestResponse,
    ValidationIssue,
)
from kerneljudge.schema import (
    Closed,
    CompareRequest,
    EvaluateRequest,
    JobRequest,
    KernelCode,
    LegacyCompareRequest,
)
from kerneljudge.service import Settings

__all__ = ["BatchRequest", "Bodies", "BodyError", "BodyTooLarge"]

_Parsed = TypeVar("_Parsed")
_MAX_LISTED: Final = 100
_KERNEL_FIELDS: Final = frozenset({"kernel", "ref_kernel", "custom_kernel"})
_PYDANTIC_PREFIX: Final = re.compile(r"^Value error, ")

_LARGE: Final = 256 * 1024
"""Bytes from which on a body is checked in a thread, and counts among the large ones."""
_READ_AT_ONCE: Final = 8
"""Large bodies that are read at once; more wait, so that the memory for them is bounded."""
_PARSED_AT_ONCE: Final = 2
"""Large bodies that are parsed at once: that takes many times their size."""


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


def _form(value: Any) -> str:
    if isinstance(value, dict):
        if "ref_code" in value or "custom_code" in value:
            return "legacy"
        if "kernel" in value:
            return "evaluate"
    return "compare"


def _compare_form(value: Any) -> str:
    form = _form(value)
    return form if form == "legacy" else "compare"


_Evaluate = Annotated[EvaluateRequest, Tag("evaluate")]
_Compare = Annotated[CompareRequest, Tag("compare")]
_Legacy = Annotated[LegacyCompareRequest, Tag("legacy")]


class BatchRequest(Closed):
    """The body of POST /batch."""

    requests: list[Annotated[_Evaluate | _Compare | _Legacy, Discriminator(_form)]] = Field(
        min_length=1
    )
    """Bodies of /evaluate and of /compare, mixed."""


@dataclass(frozen=True)
class _Kind(Generic[_Parsed]):
    """One kind of body."""

    adapter: TypeAdapter[_Parsed]
    """Reads it."""
    base: int = 0
    """How many parts the path of each request begins with."""
    tagged: bool = False
    """Whether the next part is a tag of its union, which nobody has written."""


_EVALUATE = _Kind(TypeAdapter(EvaluateRequest))
_COMPARE: _Kind[CompareRequest | LegacyCompareRequest] = _Kind(
    TypeAdapter(Annotated[_Compare | _Legacy, Discriminator(_compare_form)]), tagged=True
)


def _batches(most: int) -> _Kind[BatchRequest]:
    # The bound stands in the model, so that no more than this many are ever made.
    requests: Any = BatchRequest.model_fields["requests"].annotation
    bounded = create_model(
        "BatchRequest",
        __base__=BatchRequest,
        requests=(requests, Field(min_length=1, max_length=most)),
    )
    return _Kind(TypeAdapter(bounded), base=2, tagged=True)


class Bodies:
    """Reads the bodies that one server gets.

    Every method raises `BodyTooLarge` above the server's limit, and `BodyError` for what is no
    acceptable request.
    """

    def __init__(self, settings: Settings) -> None:
        """Within the bounds of these settings."""
        self._settings = settings
        self._reading = asyncio.Semaphore(_READ_AT_ONCE)
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._batches = _batches(settings.max_batch)

    async def evaluate(self, request: Request) -> EvaluateRequest:
        """The body of POST /evaluate."""
        return await self._read(request, self._evaluate)

    async def compare(self, request: Request) -> CompareRequest:
        """The body of POST /compare, in today's form or in the older one."""
        return await self._read(request, self._compare)

    async def batch(self, request: Request) -> list[JobRequest]:
        """The requests of POST /batch."""
        return await self._read(request, self._batch)

    async def _read(self, request: Request, parse: Callable[[bytearray], _Parsed]) -> _Parsed:
        _require_json(request)
        limit = self._settings.max_body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise BodyTooLarge(limit)
        raw = bytearray()
        held = False
        try:
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > limit:
                    raise BodyTooLarge(limit)
                if len(raw) > _LARGE and not held:
                    await self._reading.acquire()
                    held = True
            if not held:
                return parse(raw)
            async with self._parsing:
                return await asyncio.to_thread(parse, raw)
        finally:
            if held:
                self._reading.release()

    def _evaluate(self, raw: bytearray) -> EvaluateRequest:
        request = fitted(_parsed(raw, _EVALUATE), self._settings)
        self._check(request)
        return request

    def _compare(self, raw: bytearray) -> CompareRequest:
        request = _parsed(raw, _COMPARE)
        if isinstance(request, LegacyCompareRequest):
            legacy = fitted(request, self._settings)
            self._check(legacy)
            return legacy.modern()
        request = fitted(request, self._settings)
        self._check(request)
        return request

    def _check(self, request: AnyRequest) -> None:
        broken = list(breaches(request, self._settings))
        if broken:
            raise BodyError(
                BrokenRuleResponse(
                    error="; ".join(breach.message for breach in broken),
                    details=f"at {', '.join(_joined('body', *breach.path) for breach in broken)}",
                )
            )

    def _batch(self, raw: bytearray) -> list[JobRequest]:
        batch = _parsed(raw, self._batches)
        requests = [fitted(request, self._settings) for request in batch.requests]
        broken = [
            Breach(("requests", position, *breach.path), breach.message)
            for position, request in enumerate(requests)
            for breach in breaches(request, self._settings)
        ]
        if broken:
            raise BodyError(
                InvalidRequestResponse(
                    validation_errors=[
                        ValidationIssue(
                            field=_joined("body", *breach.path),
                            message=breach.message,
                            type="over_limit",
                        )
                        for breach in broken[:_MAX_LISTED]
                    ]
                )
            )
        return [
            request.modern() if isinstance(request, LegacyCompareRequest) else request
            for request in requests
        ]


def _require_json(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise _unsupported(f"a body with Content-Encoding {coding!r} is not read: send it as it is")
    given = request.headers.get("content-type")
    if given is None:
        return
    header = Message()
    header["content-type"] = given
    kind = header.get_content_type()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise _unsupported(
            f"a body of the type {kind} is not read: send JSON, with "
            "`Content-Type: application/json`"
        )


def _unsupported(message: str) -> HTTPException:
    return HTTPException(415, message, {"Connection": "close"})


def _parsed(raw: bytearray, kind: _Kind[_Parsed]) -> _Parsed:
    try:
        parsed = kind.adapter.validate_json(raw)
    except ValidationError as error:
        raise BodyError(_answer(error, kind)) from None
    # What the check above reads as one thing, another reader may read as another.
    try:
        json.loads(
            raw,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_countable,
        )
    except ValueError as error:
        issue = ValidationIssue(field="body", message=str(error), type="json_invalid")
        raise BodyError(InvalidRequestResponse(validation_errors=[issue])) from None
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"an object has the key {key[:100]!r} twice: leave out one")
        seen.add(key)


def _no_constant(name: str) -> None:
    raise ValueError(f'{name} is no JSON: leave it out, or write it as text, "{name}"')


def _finite(text: str) -> None:
    if float(text) in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is beyond what a double holds")


def _countable(text: str) -> None:
    if len(text) > 1000:
        raise ValueError(f"the number {text[:40]}… has more than 1000 digits")


def _answer(
    error: ValidationError, kind: _Kind[Any]
) -> InvalidRequestResponse | BrokenRuleResponse:
    count = error.error_count()
    if count > _MAX_LISTED:
        # A list of millions would cost more than the request.
        message = f"{count} mistakes, too many to list: is this body meant for this address?"
        issue = ValidationIssue(field="body", message=message, type="too_many_errors")
        return InvalidRequestResponse(validation_errors=[issue])
    problems = [
        (_path(problem, kind), problem)
        for problem in error.errors(include_url=False, include_input=False)
    ]
    if kind.base == 0 and all(_breaks_a_rule(path, problem) for path, problem in problems):
        return BrokenRuleResponse(
            error="; ".join(_message(problem) for _, problem in problems),
            details=f"at {', '.join(_joined(*path) for path, _ in problems)}",
        )
    return InvalidRequestResponse(
        validation_errors=[
            ValidationIssue(field=_joined(*path), message=_message(problem), type=problem["type"])
            for path, problem in problems
        ]
    )


def _path(problem: ErrorDetails, kind: _Kind[Any]) -> tuple[int | str, ...]:
    where, path = problem["loc"][: kind.base], problem["loc"][kind.base :]
    if kind.tagged:
        path = path[1:]
    if (
        len(path) > 1
        and path[0] in _KERNEL_FIELDS
        and path[1] not in KernelCode.model_fields
        and problem["type"] != "extra_forbidden"
    ):
        # Metadata is read by the options of the kernel type, inside a validator of the kernel.
        path = (path[0], "metadata", *path[1:])
    return ("body", *where, *path)


def _breaks_a_rule(path: tuple[int | str, ...], problem: ErrorDetails) -> bool:
    """Whether every field is well formed and a rule between a kernel's fields is broken."""
    return problem["type"] == "value_error" and path[-1] in _KERNEL_FIELDS


def _message(problem: ErrorDetails) -> str:
    if problem["type"] == "too_long" and problem["loc"] == ("requests",):
        most = problem["ctx"]["max_length"]
        return f"this server takes at most {most} requests at once (KERNELJUDGE_MAX_BATCH)"
    return _PYDANTIC_PREFIX.sub("", problem["msg"])


def _joined(*path: int | str) -> str:
    return " -> ".join(str(part) for part in path)
