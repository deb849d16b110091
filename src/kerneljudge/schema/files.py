"""Contracts, kernels and requests as JSON text and JSON files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import BaseModel, ValidationError

from kerneljudge.contract import IOContract
from kerneljudge.schema.kernel import KernelCode

__all__ = ["load_from_file", "save_to_file", "to_json"]

_MODELS: dict[str, type[BaseModel]] = {"IOContract": IOContract, "KernelCode": KernelCode}


def to_json(obj: Any, pretty: bool = False) -> str:
    """A model, or dicts and lists with models anywhere inside, as JSON text.

    Fields that are null are left out of models. NaN and infinities, which JSON has not, become
    the strings "NaN", "Infinity" and "-Infinity", which contracts read. Raises TypeError for
    what JSON cannot hold.
    """
    return json.dumps(
        _plain(obj), ensure_ascii=False, allow_nan=False, indent=2 if pretty else None
    )


def save_to_file(obj: Any, path: str | PathLike[str], pretty: bool = True) -> None:
    """Writes what `to_json` makes of the object to a file, in UTF-8."""
    Path(path).write_text(to_json(obj, pretty) + "\n", encoding="utf-8")


@overload
def load_from_file(
    path: str | PathLike[str], obj_type: Literal["IOContract"] = "IOContract"
) -> IOContract: ...
@overload
def load_from_file(path: str | PathLike[str], obj_type: Literal["KernelCode"]) -> KernelCode: ...
@overload
def load_from_file(path: str | PathLike[str], obj_type: Literal["dict"]) -> dict[str, Any]: ...
def load_from_file(
    path: str | PathLike[str], obj_type: Literal["IOContract", "KernelCode", "dict"] = "IOContract"
) -> IOContract | KernelCode | dict[str, Any]:
    """Reads a contract, a kernel, or any JSON object from a file.

    Raises OSError where the file cannot be read, and ValueError, naming the file, where it holds
    something else.
    """
    if obj_type != "dict" and obj_type not in _MODELS:
        raise ValueError(
            f"unknown obj_type {obj_type!r}: use one of {', '.join([*_MODELS, 'dict'])}"
        )
    text = Path(path).read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object")
    if obj_type == "dict":
        return content
    try:
        return _MODELS[obj_type].model_validate(content)  # type: ignore[return-value]
    except ValidationError as error:
        raise ValueError(f"{path} is not a valid {obj_type}: {error}") from None


def _plain(obj: Any) -> Any:
    if isinstance(obj, BaseModel):
        return _plain(obj.model_dump(exclude_none=True))
    if isinstance(obj, Mapping):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, Enum):
        return obj.value
    if isinstance(obj, float) and not math.isfinite(obj):
        return "NaN" if math.isnan(obj) else "Infinity" if obj > 0 else "-Infinity"
    return obj
