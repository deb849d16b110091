"""The element types of tensors and scalars, known without torch or numpy."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator

__all__ = ["DTYPES", "DType", "DTypeName", "dtype_of"]


class DType(NamedTuple):
    """One element type."""

    name: str
    """Torch's name, without the prefix `torch.`."""
    itemsize: int
    """Bytes an element."""
    kind: Literal["float", "int", "bool"]
    """What its values are; `uint8` is an `int` as well."""
    lowest: float
    """The smallest finite value."""
    highest: float
    """The largest finite value."""
    has_infinity: bool = False
    """Whether it can hold an infinity. Every floating-point type can hold NaN."""

    def check(self, value: int | float, what: str, *, non_finite: bool = False) -> None:
        """Raises ValueError, beginning with `what`, unless `value` can be held.

        Floating-point types round, so any finite value in their range will do, and with
        `non_finite` also NaN and what infinities they have; integers take whole numbers in their
        range (`3.0` as well as `3`), and bool takes true, false, 0 and 1.
        """
        if isinstance(value, bool) and self.kind != "bool":
            raise ValueError(f"{what} is {value}: {self.name} needs a number, not a bool")
        if isinstance(value, float) and not math.isfinite(value):
            held = self.kind == "float" and (math.isnan(value) or self.has_infinity)
            if not (non_finite and held):
                raise ValueError(
                    f"{what} is {value}, out of the range of {self.name}: give a finite number"
                )
            return
        if self.kind != "float" and value != int(value):
            raise ValueError(f"{what} is {value}: {self.name} needs a whole number")
        if not self.lowest <= value <= self.highest:
            raise ValueError(
                f"{what} is {value}, out of the range of {self.name}: "
                f"it must be from {self.lowest} to {self.highest}"
            )


def _float(name: str, itemsize: int, highest: float, *, has_infinity: bool = True) -> DType:
    return DType(name, itemsize, "float", -highest, highest, has_infinity)


def _int(name: str, bits: int) -> DType:
    return DType(name, bits // 8, "int", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# Largest finite values: IEEE 754 for float64, 32 and 16; (2 - 2**-7) * 2**127 for bfloat16;
# the OCP 8-bit Floating Point Specification for the two of 8 bits.
DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        _float("float64", 8, (2 - 2**-52) * 2.0**1023),
        _float("float32", 4, (2 - 2**-23) * 2.0**127),
        _float("float16", 2, 65504.0),
        _float("bfloat16", 2, (2 - 2**-7) * 2.0**127),
        _float("float8_e4m3fn", 1, 448.0, has_infinity=False),
        _float("float8_e5m2", 1, 57344.0),
        _int("int64", 64),
        _int("int32", 32),
        _int("int16", 16),
        _int("int8", 8),
        DType("uint8", 1, "int", 0, 255),
        DType("bool", 1, "bool", 0, 1),
    )
}
"""Every element type, by name."""


def _normalise(name: Any) -> Any:
    plain = name.removeprefix("torch.") if isinstance(name, str) else None
    if plain not in DTYPES:
        raise ValueError(f"unknown dtype {name!r:.60}: use one of {', '.join(DTYPES)}")
    return plain


DTypeName = Annotated[
    Literal[
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ],
    BeforeValidator(_normalise),
]
"""The name of an element type; `torch.float32` is read as `float32`."""


def dtype_of(name: str) -> DType:
    """The element type of a name, with or without `torch.`; ValueError if there is none."""
    return DTYPES[_normalise(name)]
