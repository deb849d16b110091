"""What the tools are given: checked here, so that every mistake is told by its argument's name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from kerneljudge.api.mcp.backend import Mistake
from kerneljudge.api.mcp.examples import KERNELS
from kerneljudge.api.mcp.results import Problem
from kerneljudge.contract import IOContract
from kerneljudge.schema import (
    Closed,
    CompareRequest,
    EvaluateRequest,
    JobRequest,
    KernelCode,
    KernelType,
)

__all__ = [
    "Arguments",
    "CompareKernels",
    "EvaluateKernel",
    "GetJobStatus",
    "GetServerStats",
    "InvalidArguments",
    "ValidateKernel",
    "read",
]

_Arguments = TypeVar("_Arguments", bound="Arguments")

_MAX_LISTED = 20
_VALUE_ERROR = "Value error, "


class InvalidArguments(Exception):
    """Arguments that no request can be made of."""

    def __init__(self, problems: list[Problem], example: dict[str, Any] | None) -> None:
        """Keeps every mistake, and right input for the arguments that have one."""
        super().__init__("; ".join(f"{problem.field}: {problem.message}" for problem in problems))
        self.problems = problems
        """Every mistake."""
        self.example = example
        """Right input for the arguments that are wrong; None where there is none to show."""


def _decoded(value: Any) -> Any:
    # Some models write an object as a string of JSON.
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("this is a string that is no JSON: give the object itself") from None


_Source = Annotated[str, Field(min_length=1)]
_Contract = Annotated[IOContract | None, BeforeValidator(_decoded)]
_Metadata = Annotated[dict[str, Any] | None, BeforeValidator(_decoded)]
_Trials = Annotated[int, Field(ge=1, le=10_000)]
_Warmup = Annotated[int, Field(ge=0, le=1000)]
_Tolerance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Timeout = Annotated[float, Field(ge=5, le=600)]


@dataclass(frozen=True)
class _Names:
    """What the arguments are called that make up one kernel."""

    source: str = "kernel_source"
    kernel_type: str = "kernel_type"
    io: str = "io_contract"
    metadata: str = "metadata"

    def place(self, path: Sequence[int | str]) -> Sequence[int | str]:
        """Where in the arguments it is that a `KernelCode` has this path."""
        fields = {
            "source_code": self.source,
            "kernel_type": self.kernel_type,
            "io": self.io,
            "metadata": self.metadata,
        }
        if not path:
            return (self.source,)
        if path[0] in fields:
            return (fields[str(path[0])], *path[1:])
        # The options of the kernel type are read inside a validator of the kernel.
        return (self.metadata, *path)


_KERNEL = _Names()
_REFERENCE = _Names(
    "reference_kernel_source",
    "reference_kernel_type",
    "reference_io_contract",
    "reference_kernel_metadata",
)
_REFERENCE_OF_TWO = _Names(
    "ref_kernel_source", "ref_kernel_type", "ref_kernel_io", "ref_kernel_metadata"
)
_CANDIDATE = _Names(
    "custom_kernel_source", "custom_kernel_type", "custom_kernel_io", "custom_kernel_metadata"
)


class Arguments(Closed):
    """The arguments of one call."""

    kernels: ClassVar[Mapping[str, _Names]] = {}
    """For each kernel of the request that they make, what its arguments are called."""

    def invalid(self, mistakes: Sequence[Mistake]) -> InvalidArguments:
        """What is wrong with the request that they make, told of the arguments."""
        placed = []
        for path, message in mistakes:
            # An EvaluateRequest has a kernel, a CompareRequest a custom_kernel: the same arguments.
            field = "custom_kernel" if path[0] == "kernel" else str(path[0])
            names = self.kernels.get(field)
            placed.append((names.place(path[1:]) if names is not None else path, message))
        return _invalid(type(self), placed, dict(self))

    def _measured(self) -> dict[str, Any]:
        # What the caller leaves to the server is left out, so that its limits may lower it.
        shared = {"num_trials", "num_warmup", "timeout"}
        return {name: getattr(self, name) for name in shared & self.model_fields_set}

    def _read_kernels(self) -> dict[str, KernelCode]:
        """The kernels, with the mistakes of all of them. Raises `InvalidArguments`."""
        read = {}
        mistakes: list[Mistake] = []
        for field, names in self.kernels.items():
            if getattr(self, names.source) is None:
                continue
            try:
                read[field] = KernelCode(
                    source_code=getattr(self, names.source),
                    kernel_type=getattr(self, names.kernel_type) or KernelType.TORCH,
                    io=getattr(self, names.io),
                    metadata=getattr(self, names.metadata),
                )
            except ValidationError as error:
                mistakes += [
                    ((field, *(entry["loc"] or self._rule(names))), _message(entry))
                    for entry in _entries(error)
                ]
        if mistakes:
            raise self.invalid(mistakes)
        return read

    def _rule(self, names: _Names) -> tuple[str, ...]:
        """Where to mend a rule between the fields of a kernel: an entry point, or a contract with
        a grid."""
        kernel_type = getattr(self, names.kernel_type)
        metadata = getattr(self, names.metadata) or {}
        if kernel_type is KernelType.MULTI_KERNEL and not metadata.get("entry_point"):
            return ("metadata", "entry_point")
        return ("io",) if getattr(self, names.io) is None else ("io", "launch", "grid")


class _OneKernel(Arguments):
    """The arguments that describe a kernel."""

    kernel_source: _Source
    """The whole source of the kernel, self-contained."""
    kernel_type: KernelType
    """How the source is written: a PyTorch module or function; PyTorch with embedded CUDA; a
    Triton kernel; a CUDA C++ kernel; a Python script with an entry point."""
    io_contract: _Contract = None
    """What the kernel takes and returns, argument by argument, and how it is launched. Required
    for triton, cuda and multi_kernel; a torch module may define get_inputs() instead."""
    metadata: _Metadata = None
    """Options of the kernel type: torch and torch_cuda function_name, class_name, method_name;
    triton kernel_name; cuda kernel_name, compiler_options, backend; multi_kernel entry_point
    (required)."""


class EvaluateKernel(_OneKernel):
    """The arguments of `evaluate_kernel`."""

    kernels: ClassVar = {"ref_kernel": _REFERENCE, "custom_kernel": _KERNEL}

    reference_kernel_source: _Source | None = None
    """Source of a reference: what is right, and what to beat. With it, the outputs are compared
    and both kernels are timed."""
    reference_kernel_type: KernelType | None = None
    """How the reference is written; torch if unset."""
    reference_io_contract: _Contract = None
    """The reference's contract; unset, a torch reference must define get_inputs()."""
    reference_kernel_metadata: _Metadata = Field(
        default=None,
        validation_alias=AliasChoices("reference_kernel_metadata", "reference_metadata"),
    )
    """The reference's options."""
    num_trials: _Trials = 100
    """Timed runs of each kernel."""
    num_warmup: _Warmup = 10
    """Untimed runs before them."""
    atol: _Tolerance = 1e-8
    """Absolute tolerance of the comparison with the reference."""
    rtol: _Tolerance = 1e-5
    """Relative tolerance of it."""
    timeout: _Timeout = 120
    """Seconds for the whole job, from its start on a device."""
    enable_device_metrics: bool = False
    """Whether to read hardware counters as well."""

    def request(self) -> JobRequest:
        """The request that these arguments make. Raises `InvalidArguments`."""
        if self.reference_kernel_source is None:
            self._refuse_half_a_reference()
        kernels = self._read_kernels()
        if "ref_kernel" not in kernels:
            return EvaluateRequest(kernel=kernels["custom_kernel"], **self._measured())
        return CompareRequest(
            **kernels,
            atol=self.atol,
            rtol=self.rtol,
            exact_integers=_exact_integers(self),
            **self._measured(),
        )

    def notes(self) -> list[str]:
        """What these arguments do not do, although it may have been meant."""
        idle = self.model_fields_set & {"atol", "rtol"}
        if self.reference_kernel_source is not None or not idle:
            return []
        return [f"{' and '.join(sorted(idle))} without effect: there is no reference_kernel_source"]

    def _refuse_half_a_reference(self) -> None:
        names = (_REFERENCE.kernel_type, _REFERENCE.io, _REFERENCE.metadata)
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            message = f"is required with {' and '.join(given)}: give it, or leave them out"
            raise self.invalid([((_REFERENCE.source,), message)])


class ValidateKernel(_OneKernel):
    """The arguments of `validate_kernel`."""

    kernels: ClassVar = {"custom_kernel": _KERNEL}

    timeout: _Timeout = 60
    """Seconds for the whole job, from its start on a device."""

    def request(self) -> JobRequest:
        """The request that these arguments make. Raises `InvalidArguments`."""
        return EvaluateRequest(
            kernel=self._read_kernels()["custom_kernel"],
            num_trials=1,
            num_warmup=0,
            num_checks=1,
            timeout=self.timeout,
        )


class CompareKernels(Arguments):
    """The arguments of `compare_kernels`."""

    kernels: ClassVar = {"ref_kernel": _REFERENCE_OF_TWO, "custom_kernel": _CANDIDATE}

    ref_kernel_source: _Source
    """The whole source of the reference: what is right, and what to beat."""
    ref_kernel_type: KernelType
    """How the reference is written."""
    ref_kernel_io: _Contract = None
    """The reference's contract."""
    ref_kernel_metadata: _Metadata = None
    """The reference's options."""
    custom_kernel_source: _Source
    """The whole source of the candidate."""
    custom_kernel_type: KernelType
    """How the candidate is written."""
    custom_kernel_io: _Contract = None
    """The candidate's contract. Its inputs get the reference's values, by name or by shape and
    dtype."""
    custom_kernel_metadata: _Metadata = None
    """The candidate's options."""
    num_trials: _Trials = 100
    """Timed runs of each kernel."""
    num_warmup: _Warmup = 10
    """Untimed runs before them."""
    atol: _Tolerance = 1e-5
    """Absolute tolerance."""
    rtol: _Tolerance = 1e-5
    """Relative tolerance."""
    timeout: _Timeout = 120
    """Seconds for the whole job, from its start on a device."""

    def request(self) -> JobRequest:
        """The request that these arguments make. Raises `InvalidArguments`."""
        return CompareRequest(
            **self._read_kernels(),
            atol=self.atol,
            rtol=self.rtol,
            exact_integers=_exact_integers(self),
            **self._measured(),
        )


def _exact_integers(arguments: Arguments) -> bool:
    """The default tolerances are for floating point; whoever sets one means it for integers too."""
    return not arguments.model_fields_set & {"atol", "rtol"}


class GetServerStats(Arguments):
    """`get_server_stats` takes no arguments."""


class GetJobStatus(Arguments):
    """The arguments of `get_job_status`."""

    job_id: _Source
    """The job's id, as the other tools answer it."""


def read(model: type[_Arguments], given: Mapping[str, Any]) -> _Arguments:
    """The arguments of a call. Raises `InvalidArguments`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        known = ", ".join(model.model_fields) or "none"
        mistakes = [
            (entry["loc"], f"there is no such argument; there are: {known}")
            if entry["type"] == "extra_forbidden" and len(entry["loc"]) == 1
            else (entry["loc"], _message(entry))
            for entry in _entries(error)
        ]
        raise _invalid(model, mistakes, given) from None


def _entries(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)


def _message(entry: ErrorDetails) -> str:
    return "is required" if entry["type"] == "missing" else entry["msg"].removeprefix(_VALUE_ERROR)


def _invalid(
    model: type[Arguments], mistakes: Sequence[Mistake], given: Mapping[str, Any]
) -> InvalidArguments:
    problems = [
        Problem(field=" -> ".join(str(part) for part in place), message=message)
        for place, message in mistakes[:_MAX_LISTED]
    ]
    if len(mistakes) > _MAX_LISTED:
        problems.append(Problem(field="…", message=f"and {len(mistakes) - _MAX_LISTED} more"))
    example = {
        name: value
        for name in dict.fromkeys(str(place[0]) for place, _ in mistakes if place)
        if (value := _right(model, name, given)) is not None
    }
    return InvalidArguments(problems, example or None)


def _right(model: type[Arguments], name: str, given: Mapping[str, Any]) -> Any:
    """Right input for an argument; None where there is none to show."""
    for names in (_KERNEL, _REFERENCE, _REFERENCE_OF_TWO, _CANDIDATE):
        fields = {
            names.source: "source_code",
            names.kernel_type: "kernel_type",
            names.io: "io",
            names.metadata: "metadata",
        }
        if name in fields:
            return _example_of(given.get(names.kernel_type))[fields[name]]
    field = model.model_fields.get(name)
    return field.default if field is not None and not field.is_required() else None


def _example_of(kernel_type: Any) -> dict[str, Any]:
    known = [member for member in KernelType if member == kernel_type]
    return KERNELS[known[0] if known else KernelType.TRITON]
