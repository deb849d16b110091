"""The arguments of a kernel, and the contract that they make."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from kerneljudge.contract.base import (
    TEXT_IF_NON_FINITE,
    ContractModel,
    explain,
    parse_non_finite,
    path_of,
)
from kerneljudge.contract.dtypes import DTypeName, dtype_of
from kerneljudge.contract.launch import LaunchConfig
from kerneljudge.contract.tensors import TensorSpec

__all__ = ["MAX_LITERAL_BYTES", "ArgSpec", "ArgType", "IOContract", "Role", "require_launch"]

ArgType = Literal["tensor", "int", "float", "bool", "str"]
Role = Literal["input", "output", "inout"]

MAX_LITERAL_BYTES = 256 * 2**20
"""Bytes of `data`, inflated, in one contract: every process that reads a contract decodes them."""


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be an int, a float, a bool or a string")
    return value


Scalar = Annotated[
    StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_scalar), TEXT_IF_NON_FINITE
]


class ArgSpec(ContractModel):
    """One argument: a tensor, or a scalar with its value."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    """The argument's name, unlike that of any other."""
    type: ArgType
    """`tensor`, or the type of the scalar."""
    value: Scalar | None = None
    """The value of a scalar, of its type (an int also for `float`). A `float` that is NaN or
    infinite is written "NaN", "Infinity" or "-Infinity"."""
    tensor_spec: TensorSpec | None = None
    """The tensor; given if, and only if, the type is `tensor`."""
    role: Role = "input"
    """`input`: read; `output`: written, and compared; `inout`: both. Scalars are inputs."""
    is_meta: StrictBool = False
    """Whether it is a compile-time constant of the kernel: a `tl.constexpr` of Triton."""
    dtype: DTypeName | None = None
    """Extension: the width of a scalar, such as int64 or float16, where a compiled kernel takes
    it; if unset, the kernel type decides."""

    @property
    def holds_values(self) -> bool:
        """Whether it holds values before the kernel runs.

        True of every argument but an output tensor with neither init nor data.
        """
        spec = self.tensor_spec
        return self.role != "output" or spec is None or bool(spec.init or spec.data)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.name.isprintable():
            raise ValueError("name has characters that cannot be printed: use plain text")
        if self.type == "tensor":
            self._check_tensor()
        else:
            self._check_scalar()
        return self

    # Below the validator of mode "after": pydantic applies them in this order, outwards.
    @model_validator(mode="wrap")
    @classmethod
    def _name_errors(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            name = data.get("name") if isinstance(data, dict) else None
            label = repr(name[:60]) if isinstance(name, str) else "(unnamed)"
            raise explain(
                error,
                lambda where, what: f"{label}: " + (f"{path_of(where)}: " if where else "") + what,
            ) from None

    def _check_tensor(self) -> None:
        if self.tensor_spec is None:
            raise ValueError("a tensor needs a tensor_spec: give at least its shape")
        if self.value is not None:
            raise ValueError(
                "value is for scalars: put a tensor's values into tensor_spec.data, or a constant "
                "into tensor_spec.init of kind full"
            )
        if self.is_meta:
            raise ValueError(
                "a tensor cannot be a meta parameter: remove is_meta, or give a scalar type"
            )
        if self.dtype is not None:
            raise ValueError("dtype is for scalars: put a tensor's into tensor_spec.dtype")

    def _check_scalar(self) -> None:
        if self.tensor_spec is not None:
            raise ValueError(
                f"tensor_spec is for tensors: make the type tensor, or give the {self.type} a value"
            )
        if self.role != "input":
            raise ValueError(
                f"the role {self.role} is for tensors: a scalar is an input; return a result "
                "through a tensor of shape [1]"
            )
        if self.value is None:
            what = "a meta parameter" if self.is_meta else f"a scalar of type {self.type}"
            raise ValueError(f"{what} needs a value: give the constant to pass")
        self.value = _typed(self.type, self.value)
        if self.dtype is None:
            return
        if self.is_meta:
            raise ValueError("a meta parameter is a constant without a dtype: remove dtype")
        dtype = dtype_of(self.dtype)
        if dtype.kind != self.type:
            raise ValueError(
                f"dtype {self.dtype} is not for a scalar of type {self.type}: remove dtype, or "
                "make the two agree"
            )
        if not isinstance(self.value, str):
            dtype.check(self.value, "value", non_finite=True)


class IOContract(ContractModel):
    """What a kernel takes and returns, in the order of its parameters, and how it is launched."""

    args: Annotated[list[ArgSpec], Field(max_length=1024)]
    """The arguments, in the order in which the kernel takes them."""
    launch: LaunchConfig | None = None
    """How to launch; `triton` and `cuda` need at least its grid."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: dict[str, int] = {}
        for position, arg in enumerate(self.args):
            first = seen.setdefault(arg.name, position)
            if first != position:
                raise ValueError(
                    f"args[{position}] '{arg.name}': args[{first}] has the same name: give every "
                    "argument its own"
                )
        self._check_data()
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _place_errors(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        def describe(where: tuple[int | str, ...], what: str) -> str:
            # What ArgSpec says begins with the argument's name.
            if len(where) > 1 and where[0] == "args":
                return f"{path_of(where[:2])} {what}"
            return f"{path_of(where)}: {what}" if where else what

        try:
            return handler(data)
        except ValidationError as error:
            raise explain(error, describe) from None

    def _check_data(self) -> None:
        # Here and not in TensorSpec: the sum is bounded before anything is inflated.
        literal = [
            (position, arg.name, arg.tensor_spec)
            for position, arg in enumerate(self.args)
            if arg.tensor_spec is not None and arg.tensor_spec.data is not None
        ]
        total = 0
        for position, name, spec in literal:
            total += spec.literal_nbytes
            if total > MAX_LITERAL_BYTES:
                raise ValueError(
                    f"args[{position}] '{name}': with it the contract's data takes {total} bytes, "
                    f"more than {MAX_LITERAL_BYTES}: have large tensors generated, through init"
                )
        for position, name, spec in literal:
            try:
                spec.literal_bytes()
            except ValueError as error:
                raise ValueError(f"args[{position}] '{name}': tensor_spec.data: {error}") from None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that all tensors take together, gaps included."""
        return sum(arg.tensor_spec.nbytes for arg in self.args if arg.tensor_spec is not None)


def require_launch(contract: IOContract, kernel_type: str) -> None:
    """Raises ValueError if a kernel of this type cannot be launched as the contract has it.

    `triton` and `cuda` need `launch.grid`; the other types launch themselves.
    """
    if kernel_type in ("triton", "cuda") and (
        contract.launch is None or contract.launch.grid is None
    ):
        raise ValueError(
            f"launch.grid is required for {kernel_type}: give the number of blocks in the "
            'io_contract, as in {"launch": {"grid": {"x": 8}}}'
        )


def _typed(kind: ArgType, value: bool | int | float | str) -> bool | int | float | str:
    """The value of a scalar as its type has it, or ValueError."""
    if kind == "float":
        value = parse_non_finite(value)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ValueError("value is out of the range of a float: make it smaller") from None
    expected = {"int": int, "float": float, "bool": bool, "str": str}[kind]
    if type(value) is not expected:
        raise ValueError(
            f"value {value!r:.60} is of type {type(value).__name__}, not {kind}: make type and "
            "value agree"
        )
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("value has lone surrogates: it must be Unicode text")
    if kind == "int" and not -(2**63) <= value < 2**64:  # type: ignore[operator]
        raise ValueError("value is out of the range of 64 bits: make it smaller")
    return value
