"""The base of every contract model: leniency towards keys, and errors that say where."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

__all__ = [
    "TEXT_IF_NON_FINITE",
    "ContractModel",
    "FillValue",
    "Number",
    "explain",
    "parse_non_finite",
    "path_of",
]

Location = tuple[int | str, ...]


class ContractModel(BaseModel):
    """A part of a contract. Unknown keys are ignored, and a null is the same as no key."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


def parse_non_finite(value: Any) -> Any:
    """`"NaN"`, `"Infinity"`, `"-Infinity"`, `"inf"`… as a float; anything else as it is."""
    words = ("nan", "inf", "infinity")
    if isinstance(value, str) and value.lower().removeprefix("-") in words:
        return float(value)
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond every float
        finite = False
    if not finite:
        raise ValueError("must be a finite number")
    return value


def _fill(value: Any) -> Any:
    value = parse_non_finite(value)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return value
    return _finite(value)


def _text_if_non_finite(value: bool | int | float | str) -> bool | int | float | str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


TEXT_IF_NON_FINITE = PlainSerializer(_text_if_non_finite, when_used="json-unless-none")
"""JSON has no NaN and no infinities: they travel as strings, which are read back as numbers."""

Number = Annotated[StrictInt | StrictFloat, BeforeValidator(_finite)]
"""A finite number. An int stays an int, so that int64 values lose nothing."""

FillValue = Annotated[
    StrictBool | StrictInt | StrictFloat, BeforeValidator(_fill), TEXT_IF_NON_FINITE
]
"""A number, NaN, an infinity, or a bool."""


def path_of(location: Location) -> str:
    """`("shape", 0)` as `shape[0]`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def explain(error: ValidationError, describe: Callable[[Location, str], str]) -> ValidationError:
    """The same errors at the same places, each with the message that `describe` makes of it.

    `describe` gets the place and what is wrong. Inputs are cut short, so that an error does not
    carry megabytes of tensor data back.
    """
    details: list[InitErrorDetails] = []
    for entry in error.errors(include_url=False):
        kind, location, value = entry["type"], entry["loc"], entry["input"]
        short = value if kind == "contract" else _shorten(value)
        if kind == "value_error":
            text = str(entry["ctx"]["error"])
        elif kind == "contract":
            text = entry["msg"]
        elif kind == "missing":
            text = "is required"
        elif kind.endswith(("too_long", "too_short")):  # says the length, and the value is long
            text = entry["msg"]
        else:
            text = f"{entry['msg']}, not {short}"
        details.append(
            {
                "type": PydanticCustomError("contract", _literal(describe(location, text))),
                "loc": location,
                "input": short,
            }
        )
    return ValidationError.from_exception_data(error.title, details)


def _shorten(value: Any) -> Any:
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64):
        return value
    return reprlib.repr(value)


def _literal(text: str) -> Any:
    # pydantic wants a LiteralString as a template; without a context it is used as it stands.
    return text
