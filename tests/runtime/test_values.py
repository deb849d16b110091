"""Values between processes: exact for data, refused by name for everything else."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kerneljudge.runtime.values import Value, ValueUnsupported, leaves, restore, strip

pytestmark = pytest.mark.unit

adapter: TypeAdapter[Value] = TypeAdapter(Value)


class Marker:
    """Stands for a tensor."""


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
values = st.recursive(
    scalars | st.builds(Marker),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=15,
)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float):
        if math.isnan(left):
            return math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left is right if isinstance(left, Marker) else left == right


def is_marker(value: Any) -> bool:
    return isinstance(value, Marker)


@given(values)
@settings(deadline=None)
def test_a_value_is_the_same_after_json(value: Any) -> None:
    tree, tensors = strip(value, is_marker)
    again = adapter.validate_json(adapter.dump_json(tree))
    assert same(restore(again, tensors), value)


@given(values)
@settings(deadline=None)
def test_leaves_are_the_scalars_and_tensors_with_distinct_paths(value: Any) -> None:
    tree, tensors = strip(value, is_marker)
    found = leaves(tree, "output")
    assert len({path for path, _ in found}) == len(found)
    assert sum(leaf.kind == "tensor" for _, leaf in found) == len(tensors)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "value is a builtins.object"),
        ([1, {"a": {2}}], r"value\[1\]\['a'\] is a builtins.set"),
        ({1: 2}, "value is a dict with keys that are not strings"),
        (lambda: 0, "value is a builtins.function"),
        (b"bytes", "value is a builtins.bytes"),
    ],
)
def test_what_is_no_data_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(ValueUnsupported, match=path):
        strip(value, is_marker)


def test_what_was_stripped_dies_with_its_last_use() -> None:
    marker = Marker()
    alive = weakref.ref(marker)
    gc.disable()
    try:
        _, found = strip([marker], lambda item: isinstance(item, Marker))
        assert found == [marker]
        del marker, found
        assert alive() is None
    finally:
        gc.enable()


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueUnsupported, match="nested"):
        strip(endless, is_marker)


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"dict","keys":["a","a"],"items":[{"kind":"none"},{"kind":"none"}]}',
        '{"kind":"dict","keys":["a"],"items":[]}',
        '{"kind":"float","value":"1.5"}',
        '{"kind":"float","value":"__import__"}',
        '{"kind":"tensor","index":-1}',
        '{"kind":"int","value":1.5}',
    ],
)
def test_a_tree_that_no_value_makes_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        adapter.validate_json(text)


def test_a_tensor_that_does_not_exist_cannot_be_restored() -> None:
    with pytest.raises(ValueError, match="tensor 3 of 1"):
        restore(adapter.validate_python({"kind": "tensor", "index": 3}), [Marker()])
