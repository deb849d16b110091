"""What a tensor argument is: shape, element type, layout, and where its values come from."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from kerneljudge.contract.base import ContractModel, FillValue, Number
from kerneljudge.contract.codec import Compression, decode, encode
from kerneljudge.contract.dtypes import DType, DTypeName, dtype_of

__all__ = ["InitKind", "TensorData", "TensorInit", "TensorSpec"]

InitKind = Literal["randn", "zeros", "ones", "uniform", "full", "arange"]

_Shape = Annotated[list[Annotated[StrictInt, Field(ge=1)]], Field(max_length=25)]

# Beyond what any device can address: the virtual addresses of NVIDIA GPUs have 49 bits.
_MAX_BYTES = 2**48


class TensorInit(ContractModel):
    """How a tensor's values are generated where the kernel is judged."""

    kind: InitKind = "randn"
    """The way. `randn`: a normal distribution; for integers all values of the dtype are equally
    likely (for int64 those from -1000000 to 1000000), for bool both. `uniform`: from `low`
    up to, and without, `high`. `zeros`, `ones`, `full`: one value. `arange`: `start`,
    `start + step`… along the last dimension, the same along all others."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] | None = None
    """The seed of `randn` and `uniform`; unset, it derives from the job's. The first trial uses
    it as it is, and each later one another that derives from it."""
    mean: Number = 0.0
    """Mean of `randn`, for floating-point dtypes."""
    std: Annotated[Number, Field(ge=0)] = 1.0
    """Standard deviation of `randn`, for floating-point dtypes."""
    low: Number | None = None
    """Lower bound of `uniform`; 0 if unset."""
    high: Number | None = None
    """Upper bound of `uniform`; if unset 1, for integers 100, for bool 2. Exclusive, except that
    rounding to a floating-point dtype may reach it."""
    fill_value: FillValue | None = None
    """The value of `full`. NaN and infinities are written "NaN", "Infinity" and "-Infinity"."""
    start: Number = 0.0
    """First value of `arange`."""
    step: Number = 1.0
    """Difference between neighbours of `arange`; not 0."""

    @property
    def draws(self) -> bool:
        """Whether the values depend on a seed."""
        return self.kind in ("randn", "uniform")

    def bounds(self, dtype: str) -> tuple[float, float]:
        """`low` and `high` of `uniform`, with the defaults of the dtype."""
        default = {"float": 1.0, "int": 100, "bool": 2}[dtype_of(dtype).kind]
        low = self.low if self.low is not None else 0
        return low, self.high if self.high is not None else default

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "full" and self.fill_value is None:
            raise ValueError("kind full needs a fill_value: give the value of every element")
        if self.kind == "arange" and self.step == 0:
            raise ValueError("step is 0: arange needs a step other than 0; use full for a constant")
        return self


class TensorData(ContractModel):
    """A tensor's values themselves."""

    data_b64: StrictStr
    """The elements as base64 text (standard alphabet, padding, no line breaks): row-major,
    little-endian, each as its dtype has it in memory; a bool is a byte of 0 or 1."""
    dtype: DTypeName | None = None
    """The dtype; that of the tensor if unset, and otherwise the same."""
    shape: _Shape | None = None
    """The shape; that of the tensor if unset, and otherwise the same."""
    compress: Compression = "none"
    """`zlib` if the bytes were deflated before base64."""

    @classmethod
    def from_bytes(
        cls, raw: bytes, shape: list[int], dtype: str, compress: Compression = "none"
    ) -> Self:
        """The data of a tensor whose elements are `raw`, row-major and little-endian."""
        return cls.model_validate(
            {
                "data_b64": encode(raw, compress),
                "dtype": dtype,
                "shape": shape,
                "compress": compress,
            }
        )


class TensorSpec(ContractModel):
    """A tensor: its shape, its dtype, and where its values come from.

    `init` and `data` exclude each other. With either, the tensor holds those values before each
    run, also if it is an output. With neither, an input (or inout) is drawn as by `init:
    {"kind": "randn"}`, and an output holds nothing that a kernel could rely on.
    """

    shape: _Shape
    """Extent of each dimension, at least 1; `[]` is a tensor of one element and no dimension.
    May be left out where `data` has a shape."""
    dtype: DTypeName = "float32"
    """Element type: float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2, int64,
    int32, int16, int8, uint8 or bool. Where `data` has one, that if left out."""
    init: TensorInit | None = None
    """Generates the values."""
    data: TensorData | None = None
    """Gives the values."""
    strides: list[StrictInt] | None = None
    """Extension: elements from one index to the next along each dimension, at least 1, such that
    no two elements share memory; row-major without gaps if unset. Values do not depend on it."""

    @model_validator(mode="before")
    @classmethod
    def _take_from_data(cls, spec: Any) -> Any:
        if isinstance(spec, dict) and (data := spec.get("data")) is not None:
            of_data = data if isinstance(data, dict) else getattr(data, "__dict__", {})
            for key in ("shape", "dtype"):
                if spec.get(key) is None and of_data.get(key) is not None:
                    spec = {**spec, key: of_data[key]}
        return spec

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.init is not None and self.data is not None:
            raise ValueError(
                "init and data are both given, and exclude each other: keep data to send the "
                "values, or init to have them generated"
            )
        if self.strides is not None:
            _check_strides(self.shape, self.strides)
        if self.nbytes > _MAX_BYTES:
            raise ValueError(
                f"shape {self.shape} of {self.dtype} takes {self.nbytes} bytes, more than any "
                f"device can address ({_MAX_BYTES}): make it smaller"
            )
        if self.data is not None:
            _check_agreement(self, self.data)
        if self.init is not None:
            _check_init(self.init, self.shape, dtype_of(self.dtype))
        return self

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def element_strides(self) -> tuple[int, ...]:
        """The strides, in elements: those given, or row-major ones."""
        if self.strides is not None:
            return tuple(self.strides)
        strides: list[int] = []
        step = 1
        for extent in reversed(self.shape):
            strides.append(step)
            step *= extent
        return tuple(reversed(strides))

    @property
    def storage_numel(self) -> int:
        """Elements from the first to the last in memory, gaps included."""
        return 1 + sum(
            (extent - 1) * stride
            for extent, stride in zip(self.shape, self.element_strides, strict=True)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tensor takes, gaps included."""
        return self.storage_numel * dtype_of(self.dtype).itemsize

    @property
    def literal_nbytes(self) -> int:
        """Bytes of the elements alone, as `data` holds them."""
        return self.numel * dtype_of(self.dtype).itemsize

    def literal_bytes(self) -> bytes:
        """The elements of `data`, row-major and little-endian.

        Raises ValueError where there is no `data`, or where it is not what shape and dtype make.
        """
        if self.data is None:
            raise ValueError("the tensor has no data")
        raw = decode(self.data.data_b64, self.data.compress, self.literal_nbytes)
        if self.dtype == "bool" and raw.strip(b"\0\1"):
            raise ValueError("data of bool holds a byte other than 0 and 1: write each as 0 or 1")
        return raw


def _check_strides(shape: list[int], strides: list[int]) -> None:
    if len(strides) != len(shape):
        raise ValueError(
            f"strides {strides} has {len(strides)} entries for the {len(shape)} dimensions of "
            f"shape {shape}: give one for each"
        )
    if any(stride < 1 for stride in strides):
        raise ValueError(f"strides {strides} must be 1 or more: elements may not share memory")
    # Taken from the innermost outwards, each dimension must step over all that lies inside it.
    inside = 1
    for stride, extent in sorted(zip(strides, shape, strict=True)):
        if extent > 1 and stride < inside:
            raise ValueError(
                f"strides {strides} let elements of shape {shape} share memory: the stride "
                f"{stride} must be {inside} or more"
            )
        inside += (extent - 1) * stride


def _check_agreement(spec: TensorSpec, data: TensorData) -> None:
    if data.shape is not None and data.shape != spec.shape:
        raise ValueError(
            f"data.shape {data.shape} is not the shape {spec.shape}: make them the same, or leave "
            "one out"
        )
    if data.dtype is not None and data.dtype != spec.dtype:
        raise ValueError(
            f"data.dtype {data.dtype} is not the dtype {spec.dtype}: make them the same, or leave "
            "one out"
        )


def _check_init(init: TensorInit, shape: list[int], dtype: DType) -> None:
    if init.kind == "randn" and dtype.kind == "float":
        dtype.check(init.mean, "init.mean")
        dtype.check(init.std, "init.std")
    elif init.kind == "uniform":
        _check_bounds(*init.bounds(dtype.name), dtype)
    elif init.kind == "full" and init.fill_value is not None:
        dtype.check(init.fill_value, "init.fill_value", non_finite=True)
    elif init.kind == "arange":
        number = float if dtype.kind == "float" else int
        if dtype.kind != "float" and int(init.step) != init.step:
            raise ValueError(f"init.step is {init.step}: {dtype.name} needs a whole number")
        dtype.check(init.start, "init.start")
        last = number(init.start) + number(init.step) * ((shape[-1] if shape else 1) - 1)
        dtype.check(last, "the last value of init.arange (start + step * (last dimension - 1))")


def _check_bounds(low: float, high: float, dtype: DType) -> None:
    if not low < high:
        raise ValueError(
            f"init.low is {low} and init.high {high}: uniform needs low below high; use full for "
            "a constant"
        )
    dtype.check(low, "init.low")
    if dtype.kind == "float":
        dtype.check(high, "init.high")
        dtype.check(float(high) - float(low), "init.high - init.low")
    elif high != int(high):
        raise ValueError(f"init.high is {high}: {dtype.name} needs a whole number")
    elif high > min(dtype.highest + 1, 2**63 - 1):
        raise ValueError(
            f"init.high is {high}, out of the range of {dtype.name}: it is exclusive, and at most "
            f"{min(dtype.highest + 1, 2**63 - 1)}"
        )
