"""Python values as they cross between a runner and the judge: plain data, never code.

A value becomes a tree of scalars, lists, tuples and dicts; its tensors are left out and counted,
and travel by shared memory. Anything else is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, model_validator

from kerneljudge.schema import Closed

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_VALUES",
    "Size",
    "TensorMeta",
    "Value",
    "ValueUnsupported",
    "leaves",
    "restore",
    "strip",
]

MAX_VALUES = 4096
"""Numbers, strings and tensors in one value, and entries of one list or dict."""

MAX_TEXT = 10_000
"""Characters of one string."""

MAX_KEY = 256
"""Characters of one key."""

MAX_DIMENSIONS = 64
"""torch's own limit on the dimensions of a tensor."""


class ValueUnsupported(TypeError):
    """A value holds something that is neither a tensor nor plain data."""


Size = Annotated[int, Field(ge=0, lt=2**63)]


class TensorMeta(Closed):
    """A tensor, without its elements."""

    dtype: Annotated[str, Field(max_length=32)]
    """torch's name of it, without `torch.`."""
    shape: Annotated[list[Size], FailFast(), Field(max_length=MAX_DIMENSIONS)]
    """Its sizes."""
    device: Literal["cuda", "cpu"]
    """Where it was when it was returned."""
    alias: int | None = None
    """The slot's tensor whose memory it is, if it is one of them."""


class NoneValue(Closed):
    """None."""

    kind: Literal["none"] = "none"


class BoolValue(Closed):
    """A bool."""

    kind: Literal["bool"] = "bool"
    value: bool


class IntValue(Closed):
    """An int."""

    kind: Literal["int"] = "int"
    value: int


class FloatValue(Closed):
    """A float, written by `float.hex`, which is exact and knows NaN and the infinities."""

    kind: Literal["float"] = "float"
    value: Annotated[str, Field(pattern=r"^(-?0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}|-?inf|nan)$")]


class StrValue(Closed):
    """A string."""

    kind: Literal["str"] = "str"
    value: Annotated[str, Field(max_length=MAX_TEXT)]


class TensorValue(Closed):
    """A tensor: the index of its `TensorMeta`."""

    kind: Literal["tensor"] = "tensor"
    index: Annotated[int, Field(ge=0)]


class SequenceValue(Closed):
    """A list or a tuple."""

    kind: Literal["list", "tuple"]
    items: Annotated[list[Value], FailFast(), Field(max_length=MAX_VALUES)]


class DictValue(Closed):
    """A dict with string keys, in its order."""

    kind: Literal["dict"] = "dict"
    keys: Annotated[
        list[Annotated[str, Field(max_length=MAX_KEY)]], FailFast(), Field(max_length=MAX_VALUES)
    ]
    items: Annotated[list[Value], FailFast(), Field(max_length=MAX_VALUES)]

    @model_validator(mode="after")
    def _paired(self) -> DictValue:
        if len(self.keys) != len(self.items) or len(set(self.keys)) != len(self.keys):
            raise ValueError("a dict needs one item for each of its distinct keys")
        return self


Value = Annotated[
    NoneValue
    | BoolValue
    | IntValue
    | FloatValue
    | StrValue
    | TensorValue
    | SequenceValue
    | DictValue,
    Field(discriminator="kind"),
]

SequenceValue.model_rebuild()
DictValue.model_rebuild()


def strip(value: Any, is_tensor: Callable[[Any], bool]) -> tuple[Value, list[Any]]:
    """The value's tree, and its tensors in the order of their indices.

    Raises `ValueUnsupported` with the path of what is neither tensor nor data, and for
    containers that hold themselves or nest deeper than 100, and for more than `MAX_VALUES` values.
    """
    walk = _Walk(is_tensor)
    return walk.tree(value, "value", 0), walk.tensors


class _Walk:
    """Through a value. No function that calls itself by a name of its own: that and what it found
    would live until a garbage collection."""

    def __init__(self, is_tensor: Callable[[Any], bool]) -> None:
        self.tensors: list[Any] = []
        self._is_tensor = is_tensor
        self._count = 0

    def tree(self, item: Any, path: str, depth: int) -> Value:
        """Of an item at a path."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise ValueUnsupported(
                f"the value holds more than {MAX_VALUES} values; return tensors instead of lists of"
                " numbers"
            )
        if depth > 100:
            raise ValueUnsupported(f"{path[:MAX_KEY]} is nested more than 100 deep")
        if self._is_tensor(item):
            self.tensors.append(item)
            return TensorValue(index=len(self.tensors) - 1)
        if item is None:
            return NoneValue()
        if isinstance(item, bool):
            return BoolValue(value=bool(item))
        if isinstance(item, int):
            return IntValue(value=int(item))
        if isinstance(item, float):
            return FloatValue(value=float(item).hex())
        if isinstance(item, str):
            if len(item) > MAX_TEXT:
                raise ValueUnsupported(f"{path} is a string of more than {MAX_TEXT} characters")
            return StrValue(value=str(item))
        if isinstance(item, Mapping):
            if not all(isinstance(key, str) and len(key) <= MAX_KEY for key in item):
                raise ValueUnsupported(
                    f"{path} is a dict with keys that are not strings of at most {MAX_KEY}"
                    " characters"
                )
            return DictValue(
                keys=list(item),
                items=[
                    self.tree(entry, f"{path}[{key!r}]", depth + 1) for key, entry in item.items()
                ],
            )
        if isinstance(item, Sequence) and not isinstance(item, bytes | bytearray | memoryview):
            return SequenceValue(
                kind="tuple" if isinstance(item, tuple) else "list",
                items=[
                    self.tree(entry, f"{path}[{position}]", depth + 1)
                    for position, entry in enumerate(item)
                ],
            )
        raise ValueUnsupported(
            f"{path} is a {type(item).__module__}.{type(item).__qualname__}; only tensors, numbers,"
            " strings, None, and lists, tuples and dicts of these can cross to the judge"
        )


def restore(tree: Value, tensors: Sequence[Any]) -> Any:
    """The value again. Raises `ValueError` where the tree does not fit the tensors."""
    if isinstance(tree, TensorValue):
        if tree.index >= len(tensors):
            raise ValueError(f"the value refers to tensor {tree.index} of {len(tensors)}")
        return tensors[tree.index]
    if isinstance(tree, NoneValue):
        return None
    if isinstance(tree, FloatValue):
        try:
            return float.fromhex(tree.value)
        except OverflowError as error:
            raise ValueError(f"{tree.value} is no float") from error
    if isinstance(tree, SequenceValue):
        items = [restore(item, tensors) for item in tree.items]
        return tuple(items) if tree.kind == "tuple" else items
    if isinstance(tree, DictValue):
        return {
            key: restore(item, tensors) for key, item in zip(tree.keys, tree.items, strict=True)
        }
    return tree.value


def leaves(tree: Value, path: str) -> list[tuple[str, Value]]:
    """The tree's scalars and tensors with their paths, such as `output[0]` or `output['loss']`.

    Raises `ValueError` where there are more than `MAX_VALUES`.
    """
    found = list(itertools.islice(_leaves(tree, path), MAX_VALUES + 1))
    if len(found) > MAX_VALUES:
        raise ValueError(f"the value holds more than {MAX_VALUES} values")
    return found


def _leaves(tree: Value, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(tree, SequenceValue):
        for position, item in enumerate(tree.items):
            yield from _leaves(item, f"{path}[{position}]")
    elif isinstance(tree, DictValue):
        for key, item in zip(tree.keys, tree.items, strict=True):
            yield from _leaves(item, f"{path}[{key!r}]")
    else:
        yield path, tree
