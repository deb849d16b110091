"""How a contract's arguments become the bytes that a CUDA kernel reads."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.contract import ArgSpec
from kerneljudge.languages import LoadError
from kerneljudge.languages.cuda_arguments import ArgumentBuffer
from kerneljudge.languages.cuda_source import CudaParameter

pytestmark = pytest.mark.unit


def spec(type_: str, value: Any = None, name: str = "arg", dtype: str | None = None) -> ArgSpec:
    if type_ == "tensor":
        return ArgSpec.model_validate(
            {"name": name, "type": "tensor", "tensor_spec": {"shape": [4]}}
        )
    return ArgSpec.model_validate({"name": name, "type": type_, "value": value, "dtype": dtype})


def packed(
    type_: str,
    value: Any,
    size: int,
    dtype: str | None = None,
    declared: CudaParameter | None = None,
) -> bytes:
    """The bytes of one scalar parameter."""
    buffer = ArgumentBuffer(
        "k", [spec(type_, value, dtype=dtype)], [size], None if declared is None else [declared]
    )
    buffer.fill([value])
    return buffer.raw(0, size)


def error(type_: str, value: Any, size: int, **options: Any) -> str:
    with pytest.raises(LoadError) as caught:
        packed(type_, value, size, **options)
    assert caught.value.hint
    return caught.value.message


@given(st.integers(-(2**31), 2**31 - 1))
def test_an_int_is_as_wide_as_its_parameter(value: int) -> None:
    assert packed("int", value, 4) == struct.pack("<i", value)
    assert packed("int", value, 8) == struct.pack("<q", value)


@given(st.integers(2**31, 2**32 - 1))
def test_an_int_may_be_unsigned(value: int) -> None:
    assert packed("int", value, 4) == struct.pack("<I", value)


@given(st.floats(width=16, allow_nan=False))
def test_a_float_is_as_wide_as_its_parameter(value: float) -> None:
    assert packed("float", value, 8) == struct.pack("<d", value)
    assert packed("float", value, 4) == struct.pack("<f", value)
    assert packed("float", value, 2) == struct.pack("<e", value)


@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_a_byte(value: bool) -> None:
    assert packed("bool", value, 1) == bytes([value])


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "float32"]
)
def test_a_dtype_decides_the_format(dtype: str) -> None:
    tensor = torch.tensor([1.625], dtype=getattr(torch, dtype))
    expected = bytes(tensor.view(torch.uint8).tolist())
    assert packed("float", 1.625, len(expected), dtype) == expected


def test_a_declared_bfloat16_is_no_half() -> None:
    declared = CudaParameter("__nv_bfloat16 a", "float", bfloat16=True)
    expected = torch.tensor([3.0], dtype=torch.bfloat16).view(torch.uint8).tolist()
    assert packed("float", 3.0, 2, declared=declared) == bytes(expected)


def test_an_int_for_a_declared_float_converts() -> None:
    declared = CudaParameter("float alpha", "float")
    assert packed("int", 2, 4, declared=declared) == struct.pack("<f", 2.0)


def test_a_bool_for_a_declared_int_converts() -> None:
    assert packed("bool", True, 4, declared=CudaParameter("int flag", "int")) == b"\1\0\0\0"


def test_a_launch_reads_every_parameter_through_its_pointer() -> None:
    tensor = torch.zeros(4)
    specs = [spec("tensor", name="x"), spec("int", 5, "n"), spec("bool", True, "b")]
    buffer = ArgumentBuffer("k", [*specs, spec("float", 1.5, "a")], [8, 4, 1, 8])
    buffer.fill([tensor, 5, True, 1.5])
    pointers = (ctypes.c_void_p * 4).from_address(buffer.address)
    assert ctypes.c_uint64.from_address(pointers[0] or 0).value == tensor.data_ptr()
    assert ctypes.c_int32.from_address(pointers[1] or 0).value == 5
    assert ctypes.c_bool.from_address(pointers[2] or 0).value is True
    assert ctypes.c_double.from_address(pointers[3] or 0).value == 1.5
    buffer.fill([tensor, 6, False, 2.5])
    assert ctypes.c_int32.from_address(pointers[1] or 0).value == 6
    assert ctypes.c_double.from_address(pointers[3] or 0).value == 2.5


def test_a_kernel_without_parameters_has_an_address() -> None:
    buffer = ArgumentBuffer("k", [], [])
    buffer.fill([])
    assert buffer.address


def test_too_few_arguments_name_the_parameter() -> None:
    declared = [CudaParameter("float* x", "pointer"), CudaParameter("int n", "int")]
    with pytest.raises(LoadError, match=r"Parameter 1 \(`int n`\) of kernel 'k' has no argument"):
        ArgumentBuffer("k", [spec("tensor")], [8, 4], declared)


def test_too_many_arguments_name_the_argument() -> None:
    with pytest.raises(
        LoadError, match="Argument 'block' has no parameter in kernel 'k'"
    ) as caught:
        ArgumentBuffer("k", [spec("tensor"), spec("int", 3, "block")], [8])
    assert "is_meta" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("type_", "value", "size", "options", "words"),
    [
        ("tensor", None, 4, {}, "is a tensor, and parameter 0 is no pointer"),
        ("tensor", None, 8, {"declared": CudaParameter("double d", "float")}, "is a tensor"),
        ("int", 3, 8, {"declared": CudaParameter("float* x", "pointer")}, "is a pointer"),
        ("int", 3, 16, {}, "takes 16 bytes"),
        ("int", 2**40, 4, {}, "= 1099511627776 does not fit parameter 0"),
        ("int", -(2**31) - 1, 4, {}, "does not fit"),
        ("float", 1.0, 1, {}, "takes 1 bytes"),
        ("float", 1e300, 4, {}, "does not fit"),
        ("float", 1.5, 4, {"declared": CudaParameter("int n", "int")}, "is an integer"),
        ("float", 1.5, 4, {"dtype": "float64"}, "has dtype float64, of 8 bytes"),
        (
            "int",
            1,
            4,
            {"dtype": "int32", "declared": CudaParameter("float a", "float")},
            "takes 4 bytes as float",
        ),
        ("bool", True, 4, {}, "is a bool, of 1 byte, and parameter 0 takes 4 bytes"),
        ("str", "relu", 8, {}, "is a string, which a CUDA kernel cannot take"),
    ],
)
def test_what_does_not_fit_names_argument_and_parameter(
    type_: str, value: Any, size: int, options: dict[str, Any], words: str
) -> None:
    message = error(type_, value, size, **options)
    assert message.startswith("Argument 'arg'")
    assert words in message
    assert "parameter 0" in message
