"""The five tools, over whatever backend a call has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp import types
from mcp.server.context import ServerRequestContext
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from kerneljudge.api.mcp.arguments import (
    Arguments,
    CompareKernels,
    EvaluateKernel,
    GetJobStatus,
    GetServerStats,
    InvalidArguments,
    ValidateKernel,
    read,
)
from kerneljudge.api.mcp.backend import Backend, NotTaken, Step
from kerneljudge.api.mcp.results import (
    DEVICE_METRICS_UNAVAILABLE,
    JobStatus,
    Judgement,
    Outcome,
    ServerStats,
    Validation,
)
from kerneljudge.api.responses import JobResponse
from kerneljudge.schema import JobRequest, Phase

__all__ = ["Report", "Tools"]

Report = Callable[[float, float, str], Awaitable[None]]
"""Tells the caller how far a call is: steps done, steps in all, and a word on it."""

_LOG = logging.getLogger(__name__)

_Answer = Outcome | JobStatus | ServerStats

_PHASES: Final = tuple(Phase)
_CANCEL_SECONDS: Final = 10.0

_JUDGE = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
_LOOK = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class _Tool:
    title: str
    description: str
    arguments: type[Arguments]
    answer: type[Outcome] | type[JobStatus] | type[ServerStats]
    annotations: types.ToolAnnotations


_TOOLS: Final[dict[str, _Tool]] = {
    "evaluate_kernel": _Tool(
        "Evaluate a kernel",
        "Builds, runs and times one GPU kernel. With reference_kernel_source, also checks its "
        "outputs against the reference's and answers the speedup. The answer has a verdict, the "
        "times and how they were taken, and for a kernel that fails what was wrong.",
        EvaluateKernel,
        Judgement,
        _JUDGE,
    ),
    "validate_kernel": _Tool(
        "Validate a kernel",
        "Builds one GPU kernel and runs it once on its contract's inputs: the quickest way to see "
        "whether it compiles and does not crash. Says nothing of its results or its speed.",
        ValidateKernel,
        Validation,
        _JUDGE,
    ),
    "compare_kernels": _Tool(
        "Compare two kernels",
        "Checks a candidate kernel's outputs against a reference's on several inputs, times both, "
        "and answers the speedup. Each has its own type and contract.",
        CompareKernels,
        Judgement,
        _JUDGE,
    ),
    "get_server_stats": _Tool(
        "Server statistics",
        "Whether the server takes jobs, its GPUs with their memory, and its jobs by state.",
        GetServerStats,
        ServerStats,
        _LOOK,
    ),
    "get_job_status": _Tool(
        "Job status",
        "The state of a job, and its result once it has ended. An unknown id has the status "
        "not_found.",
        GetJobStatus,
        JobStatus,
        _LOOK,
    ),
}


class Tools:
    """Lists the tools and calls them."""

    def __init__(self, backend_of: Callable[[ServerRequestContext[Any, Any]], Backend]) -> None:
        """`backend_of` gives the backend of one call's sender."""
        self._backend_of = backend_of
        self._listed = [
            types.Tool(
                name=name,
                title=tool.title,
                description=tool.description,
                input_schema=_schema(tool.arguments, "validation"),
                output_schema=_schema(tool.answer, "serialization"),
                annotations=tool.annotations,
            )
            for name, tool in _TOOLS.items()
        ]

    async def list(
        self, _: ServerRequestContext[Any, Any], __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Every tool, with the schemas of its arguments and its answer."""
        return types.ListToolsResult(tools=self._listed)

    async def call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Calls one tool. A mistake is an answer too, marked as an error."""
        tool = _TOOLS.get(params.name)
        if tool is None:
            known = ", ".join(_TOOLS)
            message = f"there is no tool {params.name!r}; there are: {known}"
            return _result(Outcome.refused(message), is_error=True)
        backend = self._backend_of(context)
        arguments: Arguments | None = None
        # The other tools have no field for a failure.
        model = tool.answer if issubclass(tool.answer, Outcome) else Outcome
        try:
            arguments = await asyncio.to_thread(read, tool.arguments, params.arguments or {})
            return _result(await _answer(arguments, backend, context.session.report_progress))
        except InvalidArguments as error:
            message = f"the arguments of {params.name} have {_count(len(error.problems))}"
            answer = model.refused(message, problems=error.problems, example=error.example)
        except NotTaken as error:
            assert arguments is not None
            wrong = arguments.invalid(error.mistakes)
            answer = model.refused(
                str(error),
                job_id=error.job_id,
                problems=wrong.problems,
                example=wrong.example,
                retry_after=error.retry_after,
            )
        return _result(answer, is_error=True)


async def _answer(arguments: Arguments, backend: Backend, report: Report) -> _Answer:
    if isinstance(arguments, EvaluateKernel):
        judgement = Judgement.of(await _judged(arguments.request(), backend, report))
        judgement.notes += arguments.notes()
        if arguments.enable_device_metrics:
            judgement.device_metrics_unavailable = DEVICE_METRICS_UNAVAILABLE
        return judgement
    if isinstance(arguments, CompareKernels):
        return Judgement.of(await _judged(arguments.request(), backend, report))
    if isinstance(arguments, ValidateKernel):
        return Validation.of(await _judged(arguments.request(), backend, report))
    if isinstance(arguments, GetJobStatus):
        job = await backend.job(arguments.job_id)
        return JobStatus.of(job) if job is not None else JobStatus.not_found(arguments.job_id)
    return await backend.stats()


async def _judged(request: JobRequest, backend: Backend, report: Report) -> JobResponse:
    """A job from its submission to its end. If the call is cancelled meanwhile, so is the job."""
    # Not to be cut off between the server's taking the job and our knowing its id.
    with anyio.CancelScope(shield=True):
        job_id = await backend.submit(request)
    try:
        done = -1
        async for step in backend.steps(job_id):
            place = _place(step)
            # Progress only goes up, although a job may be queued again.
            if place > done:
                done = place
                await report(done, len(_PHASES), _word(step, job_id))
        return await backend.ended(job_id)
    except NotTaken as error:
        error.job_id = job_id
        raise
    except asyncio.CancelledError:
        with anyio.move_on_after(_CANCEL_SECONDS, shield=True):
            try:
                await backend.cancel(job_id)
            except NotTaken as error:
                _LOG.warning("job %s goes on, though its call was cancelled: %s", job_id, error)
        raise


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of fields, which say their names again: a model reads every word."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    return model.model_json_schema(mode=mode, schema_generator=_Untitled)


def _place(step: Step) -> int:
    if step.status in ("completed", "failed", "cancelled"):
        return len(_PHASES)
    return 0 if step.phase is None else _PHASES.index(step.phase) + 1


def _word(step: Step, job_id: str) -> str:
    word = f"job {job_id}: {step.status}"
    if step.phase is not None:
        word += f", phase {step.phase}"
    return f"{word} ({step.message})" if step.message else word


def _count(mistakes: int) -> str:
    return "a mistake" if mistakes == 1 else f"{mistakes} mistakes"


def _result(answer: _Answer, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=answer.text())],
        structured_content=answer.model_dump(mode="json"),
        is_error=is_error or (isinstance(answer, Outcome) and answer.says_nothing),
    )
