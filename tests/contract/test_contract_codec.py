"""Literal data: bytes and tensors through base64 and zlib, and what is refused."""

from __future__ import annotations

import base64
import math
import tracemalloc
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.contract import (
    DTYPES,
    Compression,
    TensorData,
    TensorSpec,
    data_from_tensor,
    decode,
    encode,
    tensor_from_data,
)

pytestmark = pytest.mark.unit

COMPRESSIONS: list[Compression] = ["none", "zlib"]


def bits(tensor: torch.Tensor) -> list[int]:
    """The bytes of a tensor's elements: equal also where NaNs are."""
    listed: list[int] = tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
    return listed


@st.composite
def literals(draw: st.DrawFn) -> tuple[bytes, list[int], str]:
    """The bytes, shape and dtype of a tensor: any bit pattern that the dtype has."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(1, 4), max_size=4))
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    raw = draw(st.binary(min_size=nbytes, max_size=nbytes))
    return (bytes(byte & 1 for byte in raw) if dtype == "bool" else raw), shape, dtype


@given(st.binary(max_size=300), st.sampled_from(COMPRESSIONS))
def test_bytes_come_back(raw: bytes, compress: Compression) -> None:
    assert decode(encode(raw, compress), compress, len(raw)) == raw


@given(literals(), st.sampled_from(COMPRESSIONS))
def test_any_data_becomes_a_tensor_and_data_again(
    literal: tuple[bytes, list[int], str], compress: Compression
) -> None:
    raw, shape, dtype = literal
    spec = TensorSpec.model_validate({"data": TensorData.from_bytes(raw, shape, dtype, compress)})
    tensor = tensor_from_data(spec)
    assert list(tensor.shape) == shape
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert bytes(bits(tensor)) == raw
    data = data_from_tensor(tensor, compress)
    assert (data.dtype, data.shape, data.compress) == (dtype, shape, compress)
    assert TensorSpec(shape=shape, dtype=dtype, data=data).literal_bytes() == raw


@pytest.mark.parametrize("name", DTYPES)
def test_the_table_of_dtypes_says_what_torch_says(name: str) -> None:
    dtype, ours = getattr(torch, name), DTYPES[name]
    assert ours.itemsize == dtype.itemsize
    assert (ours.kind == "float") == dtype.is_floating_point
    if ours.kind != "bool":
        limits = torch.finfo(dtype) if ours.kind == "float" else torch.iinfo(dtype)
        assert (ours.lowest, ours.highest) == (limits.min, limits.max)


@pytest.mark.parametrize(
    ("dtype", "one"),
    [
        ("float64", "000000000000f03f"),
        ("float32", "0000803f"),
        ("float16", "003c"),
        ("bfloat16", "803f"),
        ("float8_e4m3fn", "38"),
        ("float8_e5m2", "3c"),
        ("int64", "0100000000000000"),
        ("int32", "01000000"),
        ("int16", "0100"),
        ("int8", "01"),
        ("uint8", "01"),
        ("bool", "01"),
    ],
)
def test_elements_are_little_endian_as_in_memory(dtype: str, one: str) -> None:
    data = data_from_tensor(torch.ones(2, dtype=torch.float32).to(getattr(torch, dtype)))
    assert base64.b64decode(data.data_b64).hex() == one * 2


def test_data_is_row_major_whatever_the_strides_of_the_tensor() -> None:
    rows = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    columns = rows.t().contiguous().t()
    assert not columns.is_contiguous()
    assert base64.b64decode(data_from_tensor(columns).data_b64) == bytes(range(6))
    every_second = torch.arange(6, dtype=torch.int8)[::2]
    assert base64.b64decode(data_from_tensor(every_second).data_b64) == bytes([0, 2, 4])


def test_a_tensor_without_elements_has_no_data() -> None:
    with pytest.raises(ValueError, match=r"\[2, 0\] has no elements"):
        data_from_tensor(torch.empty(2, 0))


def test_a_dtype_that_contracts_lack_has_no_data() -> None:
    with pytest.raises(ValueError, match=r"unknown dtype 'torch\.complex64'"):
        data_from_tensor(torch.zeros(1, dtype=torch.complex64))


def packed(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


STREAM = zlib.compress(bytes(range(64)) * 4)


@pytest.mark.parametrize(
    ("text", "compress", "rule"),
    [
        (packed(STREAM[:-1]), "zlib", "cut off"),
        (packed(STREAM[:10]), "zlib", "cut off"),
        ("", "zlib", "cut off"),
        (packed(STREAM + b"more"), "zlib", "4 bytes after the end"),
        (packed(STREAM[:-1] + b"\0"), "zlib", "not a zlib stream"),
        (packed(b"\x1f\x8b" + STREAM), "zlib", "not a zlib stream"),
        (packed(zlib.compress(bytes(255))), "zlib", "holds 255 bytes, but shape and dtype make"),
        (packed(zlib.compress(bytes(257))), "zlib", "inflates to more than the 256 bytes"),
        (packed(STREAM) + "\n", "zlib", "not base64"),
        ("é" + packed(STREAM), "zlib", "not base64"),
        (packed(STREAM).rstrip("=") + "A", "zlib", "not base64"),
        ("_" * 344, "none", "not base64"),
        (packed(bytes(256))[:-1], "none", "343 characters, but the 256 bytes"),
        (packed(bytes(256)) + "AAAA", "none", "348 characters, but the 256 bytes"),
        ("A" * 344, "none", "holds 258 bytes"),
        ("A" * 340 + "====", "none", "not base64"),
        ("A" * 341 + "===", "none", "not base64"),
        ("\ud800" * 344, "none", "not base64"),
    ],
)
def test_what_is_not_exactly_the_data_is_refused(
    text: str, compress: Compression, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        decode(text, compress, 256)


def test_a_zlib_bomb_is_refused_without_inflating_it() -> None:
    bomb = packed(zlib.compress(bytes(200 * 2**20), 9))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="inflates to more than the 4096 bytes"):
            decode(bomb, "zlib", 4096)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The deflated bytes, twice over at most, and 4 KiB: not the 200 MiB.
    assert peak < 2**20


@given(st.text(max_size=40), st.sampled_from(COMPRESSIONS), st.integers(0, 40))
def test_any_text_is_decoded_to_the_length_or_refused(
    text: str, compress: Compression, nbytes: int
) -> None:
    try:
        raw: Any = decode(text, compress, nbytes)
    except ValueError:
        return
    assert len(raw) == nbytes
