"""What contracts accept, what they refuse, and in which words."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kerneljudge.contract import (
    DTYPES,
    MAX_LITERAL_BYTES,
    ArgSpec,
    Compression,
    IOContract,
    LaunchConfig,
    LaunchDim,
    TensorData,
    TensorInit,
    TensorSpec,
    encode,
    require_launch,
)

pytestmark = pytest.mark.unit


def tensor(**spec: Any) -> dict[str, Any]:
    return {"name": "x", "type": "tensor", "tensor_spec": {"shape": [4], **spec}}


def scalar(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"name": "n", "type": kind, "value": value, **more}


def refusal(contract: Any) -> str:
    """The one message with which a contract is refused."""
    with pytest.raises(ValidationError) as caught:
        IOContract.model_validate(contract)
    errors = caught.value.errors()
    assert len(errors) == 1
    return str(errors[0]["msg"])


def argument_refusal(argument: Any) -> str:
    """The message with which an argument in the second place is refused."""
    message = refusal({"args": [scalar("int", 0) | {"name": "first"}, argument]})
    name = argument.get("name") if isinstance(argument, dict) else None
    label = f"args[1] {name!r}: " if name else "args[1] (unnamed): "
    assert message.startswith(label)
    return message.removeprefix(label)


# What is accepted


def test_triton_contract_of_the_manual_is_accepted() -> None:
    contract = IOContract(
        args=[
            ArgSpec(name="x", type="tensor", tensor_spec=TensorSpec(shape=[1024])),
            ArgSpec(
                name="y",
                type="tensor",
                role="output",
                tensor_spec=TensorSpec(shape=[1024], dtype="float32"),
            ),
            ArgSpec(name="BLOCK_SIZE", type="int", value=128, is_meta=True),
        ],
        launch=LaunchConfig(grid=LaunchDim(x=8), num_warps=4, num_stages=2),
    )
    assert contract.launch is not None
    assert contract.launch.grid is not None
    assert contract.launch.grid.xyz == (8, 1, 1)
    assert [arg.role for arg in contract.args] == ["input", "output", "input"]
    assert contract.nbytes == 2 * 1024 * 4


def test_unknown_keys_are_ignored() -> None:
    contract = IOContract.model_validate(
        {
            "args": [tensor(init={"kind": "zeros", "why": 1}, unknown=2) | {"comment": "x"}],
            "launch": {"grid": {"x": 1, "w": 2}, "stream": 0},
            "version": 3,
        }
    )
    assert "version" not in contract.model_dump()


def test_explicit_nulls_are_the_same_as_no_keys() -> None:
    argument = ArgSpec.model_validate(
        {
            "name": "x",
            "type": "tensor",
            "value": None,
            "role": None,
            "is_meta": None,
            "dtype": None,
            "tensor_spec": {
                "shape": [4],
                "dtype": None,
                "data": None,
                "init": {"kind": None, "seed": None, "mean": None, "low": None},
            },
        }
    )
    assert argument == ArgSpec(
        name="x", type="tensor", tensor_spec=TensorSpec(shape=[4], init=TensorInit())
    )
    launch = LaunchConfig.model_validate({"grid": {"x": 2, "y": None}, "block": None})
    assert launch == LaunchConfig(grid=LaunchDim(x=2))


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_may_carry_the_torch_prefix(name: str) -> None:
    assert TensorSpec(shape=[1], dtype=f"torch.{name}").dtype == name


def test_shape_and_dtype_come_from_the_data_where_the_tensor_has_none() -> None:
    raw = bytes(12)
    spec = TensorSpec.model_validate({"data": TensorData.from_bytes(raw, [2, 3], "int16")})
    assert (spec.shape, spec.dtype, spec.literal_bytes()) == ([2, 3], "int16", raw)
    bare = TensorSpec.model_validate({"shape": [2, 3], "data": {"data_b64": encode(raw * 2)}})
    assert (bare.dtype, bare.literal_bytes()) == ("float32", raw * 2)


def test_a_tensor_without_dimensions_has_one_element() -> None:
    spec = TensorSpec(shape=[], dtype="float64")
    assert (spec.numel, spec.nbytes, spec.element_strides) == (1, 8, ())


def test_only_outputs_without_values_hold_none() -> None:
    def holds(role: str, **spec: Any) -> bool:
        return ArgSpec.model_validate(tensor(**spec) | {"role": role}).holds_values

    assert holds("input")
    assert holds("inout")
    assert not holds("output")
    assert holds("output", init={"kind": "zeros"})
    assert ArgSpec(name="n", type="int", value=1).holds_values


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("int", 2**63, 2**63),
        ("float", 2, 2.0),
        ("float", "-Infinity", -math.inf),
        ("float", "inf", math.inf),
        ("bool", False, False),
        ("str", "NaN", "NaN"),
    ],
)
def test_scalars_keep_their_value_in_their_type(kind: str, value: Any, kept: Any) -> None:
    read = ArgSpec.model_validate(scalar(kind, value)).value
    assert read == kept
    assert type(read) is type(kept)


def test_uniform_bounds_default_by_the_kind_of_dtype() -> None:
    init = TensorInit(kind="uniform")
    assert init.bounds("bfloat16") == (0, 1)
    assert init.bounds("int8") == (0, 100)
    assert init.bounds("bool") == (0, 2)


def test_importing_the_contract_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, kerneljudge.contract, kerneljudge.schema;"
        "sys.exit(str({'torch', 'numpy'} & set(sys.modules)) if "
        "{'torch', 'numpy'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# What is refused: every message begins with the argument, then says the rule


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        # Structure
        (3, "should be a valid dictionary"),
        ({"type": "int", "value": 1}, "name: is required"),
        ({"name": "x"}, "type: is required"),
        (scalar("complex", 1), "type: Input should be 'tensor', 'int', 'float', 'bool' or 'str'"),
        (tensor() | {"role": "both"}, "role: Input should be 'input', 'output' or 'inout'"),
        (tensor() | {"is_meta": 1}, "is_meta: Input should be a valid boolean"),
        ({"name": "x\n", "type": "int", "value": 1}, "cannot be printed"),
        # Tensors
        ({"name": "x", "type": "tensor"}, "a tensor needs a tensor_spec"),
        ({"name": "x", "type": "tensor", "tensor_spec": {}}, "tensor_spec.shape: is required"),
        (tensor() | {"value": 1.0}, "value is for scalars"),
        (tensor() | {"is_meta": True}, "a tensor cannot be a meta parameter"),
        (tensor() | {"dtype": "float32"}, "dtype is for scalars"),
        (tensor(shape=[4, 0]), "tensor_spec.shape[1]: Input should be greater than or equal to 1"),
        (tensor(shape=[-1]), "tensor_spec.shape[0]: Input should be greater than or equal to 1"),
        (tensor(shape=["4"]), "tensor_spec.shape[0]: Input should be a valid integer, not '4'"),
        (tensor(shape=[4.0]), "tensor_spec.shape[0]: Input should be a valid integer"),
        (tensor(shape=[True]), "tensor_spec.shape[0]: Input should be a valid integer"),
        (tensor(shape=4), "tensor_spec.shape: Input should be a valid list"),
        (tensor(shape=[1] * 26), "tensor_spec.shape: List should have at most 25 items"),
        (tensor(shape=[2**31, 2**31]), "more than any device can address"),
        (tensor(dtype="float31"), "tensor_spec.dtype: unknown dtype 'float31': use one of float64"),
        (tensor(dtype=32), "tensor_spec.dtype: unknown dtype 32: use one of"),
        # Strides
        (tensor(strides=[1, 1]), "has 2 entries for the 1 dimensions"),
        (tensor(strides=[0]), "must be 1 or more"),
        (tensor(shape=[4, 4], strides=[3, 1]), "share memory: the stride 3 must be 4 or more"),
        (tensor(shape=[4, 4], strides=[1, 1]), "share memory: the stride 1 must be 4 or more"),
        (tensor(strides=[2**50]), "more than any device can address"),
        # Generated values
        (
            tensor(init={"kind": "normal"}),
            "tensor_spec.init.kind: Input should be 'randn', 'zeros'",
        ),
        (tensor(init={"seed": -1}), "tensor_spec.init.seed: Input should be greater than or equal"),
        (tensor(init={"seed": 2**63}), "tensor_spec.init.seed: Input should be less than"),
        (tensor(init={"std": -1}), "tensor_spec.init.std: Input should be greater than or equal"),
        (tensor(init={"mean": "0"}), "tensor_spec.init.mean: must be a number"),
        (tensor(init={"mean": True}), "tensor_spec.init.mean: must be a number"),
        (tensor(init={"std": math.inf}), "tensor_spec.init.std: must be a finite number"),
        (tensor(init={"mean": 10**400}), "tensor_spec.init.mean: must be a finite number"),
        (tensor(init={"mean": 1e39}), "init.mean is 1e+39, out of the range of float32"),
        (tensor(init={"std": 1e5}, dtype="float16"), "init.std is 100000.0, out of the range of"),
        (tensor(init={"kind": "uniform", "low": 2, "high": 1}), "uniform needs low below high"),
        (tensor(init={"kind": "uniform", "low": 1}), "uniform needs low below high"),
        (tensor(init={"kind": "uniform", "low": -3e38, "high": 3e38}), "init.high - init.low is"),
        (
            tensor(init={"kind": "uniform", "low": -(10**308), "high": 1.7e308}, dtype="float64"),
            "init.high - init.low is inf, out of the range of",
        ),
        (
            tensor(init={"kind": "uniform", "low": -1}, dtype="uint8"),
            "init.low is -1, out of the range of uint8: it must be from 0 to 255",
        ),
        (
            tensor(init={"kind": "uniform", "high": 257}, dtype="uint8"),
            "init.high is 257, out of the range of uint8: it is exclusive, and at most 256",
        ),
        (
            tensor(init={"kind": "uniform", "high": 2**63}, dtype="int64"),
            "at most 9223372036854775807",
        ),
        (
            tensor(init={"kind": "uniform", "low": 0.5}, dtype="int32"),
            "init.low is 0.5: int32 needs a whole number",
        ),
        (
            tensor(init={"kind": "uniform", "high": 1.5}, dtype="int32"),
            "init.high is 1.5: int32 needs a whole number",
        ),
        (tensor(init={"kind": "full"}), "kind full needs a fill_value"),
        (
            tensor(init={"kind": "full", "fill_value": 128}, dtype="int8"),
            "init.fill_value is 128, out of the range of int8: it must be from -128 to 127",
        ),
        (
            tensor(init={"kind": "full", "fill_value": 0.5}, dtype="int8"),
            "init.fill_value is 0.5: int8 needs a whole number",
        ),
        (
            tensor(init={"kind": "full", "fill_value": 2}, dtype="bool"),
            "init.fill_value is 2, out of the range of bool",
        ),
        (
            tensor(init={"kind": "full", "fill_value": True}),
            "init.fill_value is True: float32 needs a number, not a bool",
        ),
        (
            tensor(init={"kind": "full", "fill_value": 449}, dtype="float8_e4m3fn"),
            "init.fill_value is 449, out of the range of float8_e4m3fn",
        ),
        (
            tensor(init={"kind": "full", "fill_value": "Infinity"}, dtype="float8_e4m3fn"),
            "init.fill_value is inf, out of the range of float8_e4m3fn",
        ),
        (
            tensor(init={"kind": "full", "fill_value": "NaN"}, dtype="int32"),
            "init.fill_value is nan, out of the range of int32",
        ),
        (tensor(init={"kind": "full", "fill_value": "3"}), "fill_value: must be a number"),
        (tensor(init={"kind": "arange", "step": 0}), "arange needs a step other than 0"),
        (
            tensor(shape=[2, 300], init={"kind": "arange"}, dtype="uint8"),
            "the last value of init.arange (start + step * (last dimension - 1)) is 299, out of",
        ),
        (
            tensor(init={"kind": "arange", "step": 10**308}, dtype="int32"),
            "the last value of init.arange (start + step * (last dimension - 1)) is 3000",
        ),
        (
            tensor(init={"kind": "arange", "step": 10**308}, dtype="float64"),
            "the last value of init.arange (start + step * (last dimension - 1)) is inf, out of",
        ),
        (
            tensor(init={"kind": "arange", "start": -1}, dtype="uint8"),
            "init.start is -1, out of the range of uint8",
        ),
        (
            tensor(shape=[3], init={"kind": "arange", "step": 0.5}, dtype="int32"),
            "init.step is 0.5: int32 needs a whole number",
        ),
        # Literal data
        (tensor(data={}), "tensor_spec.data.data_b64: is required"),
        (
            tensor(data={"data_b64": encode(bytes(16))}, init={}),
            "init and data are both given, and exclude each other",
        ),
        (
            tensor(data={"data_b64": encode(bytes(16)), "compress": "gzip"}),
            "tensor_spec.data.compress: Input should be 'none' or 'zlib'",
        ),
        (
            tensor(data={"data_b64": encode(bytes(16)), "shape": [2, 2]}),
            "data.shape [2, 2] is not the shape [4]",
        ),
        (
            tensor(data={"data_b64": encode(bytes(16)), "dtype": "int32"}, dtype="float32"),
            "data.dtype int32 is not the dtype float32",
        ),
        (
            tensor(data={"data_b64": encode(bytes(20))}),
            "data: data_b64 has 28 characters, but the 16 bytes of shape and dtype make 24",
        ),
        (
            tensor(data={"data_b64": encode(bytes(15))}),
            "data: data_b64 has 20 characters, but the 16 bytes of shape and dtype make 24",
        ),
        (
            tensor(data={"data_b64": encode(bytes(17))}),
            "data: data_b64 holds 17 bytes, but shape and dtype make 16",
        ),
        (
            tensor(data={"data_b64": encode(bytes(16))[:-4] + "!A=="}),
            "data: data_b64 is not base64",
        ),
        (
            tensor(data={"data_b64": encode(b"\0\1\2\3")}, dtype="bool"),
            "data: data of bool holds a byte other than 0 and 1",
        ),
        # Scalars
        ({"name": "n", "type": "int"}, "a scalar of type int needs a value"),
        ({"name": "n", "type": "int", "is_meta": True}, "a meta parameter needs a value"),
        (scalar("int", 1) | {"tensor_spec": {"shape": [1]}}, "tensor_spec is for tensors"),
        (scalar("int", 1, role="output"), "the role output is for tensors"),
        (scalar("int", True), "value True is of type bool, not int"),
        (scalar("int", 1.0), "value 1.0 is of type float, not int"),
        (scalar("int", "1"), "value '1' is of type str, not int"),
        (scalar("int", 2**64), "value is out of the range of 64 bits"),
        (scalar("float", True), "value True is of type bool, not float"),
        (scalar("float", "1e999"), "value '1e999' is of type str, not float"),
        (scalar("float", "1.5"), "value '1.5' is of type str, not float"),
        (scalar("float", 10**400), "out of the range of a float"),
        (scalar("bool", 1), "value 1 is of type int, not bool"),
        (scalar("str", 1), "value 1 is of type int, not str"),
        (scalar("str", "\ud800"), "value has lone surrogates"),
        (scalar("int", [1]), "value: must be an int, a float, a bool or a string"),
        (scalar("int", 1, dtype="float32"), "dtype float32 is not for a scalar of type int"),
        (scalar("float", 1.0, dtype="int32"), "dtype int32 is not for a scalar of type float"),
        (scalar("str", "a", dtype="int8"), "dtype int8 is not for a scalar of type str"),
        (scalar("int", 128, dtype="int8"), "value is 128, out of the range of int8"),
        (scalar("float", 1e6, dtype="float16"), "value is 1000000.0, out of the range of float16"),
        (scalar("int", 1, dtype="int8", is_meta=True), "a meta parameter is a constant without"),
    ],
)
def test_refusals_name_the_argument_and_the_rule(argument: Any, rule: str) -> None:
    assert rule in argument_refusal(argument)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"grid": {"y": 2}}, "launch.grid.x: is required"),
        ({"grid": {"x": 0}}, "launch.grid.x: Input should be greater than or equal to 1, not 0"),
        ({"grid": {"x": 2**31}}, "launch.grid: x is 2147483648: CUDA allows at most 2147483647"),
        ({"grid": {"x": 1, "y": 65536}}, "launch.grid: y is 65536: CUDA allows at most 65535"),
        ({"block": {"x": 1, "z": 65}}, "launch.block: z is 65: CUDA allows at most 64 along z"),
        ({"block": {"x": 33, "y": 32}}, "launch.block: 33 x 32 x 1 is 1056 threads"),
        ({"num_warps": 3}, "launch.num_warps: is 3: it must be 1, 2, 4, 8, 16 or 32"),
        ({"num_warps": 64}, "launch.num_warps: is 64: it must be 1, 2, 4, 8, 16 or 32"),
        ({"num_stages": 0}, "launch.num_stages: Input should be greater than or equal to 1"),
        ({"shared_memory": -1}, "launch.shared_memory: Input should be greater than or equal to 0"),
        ({"shared_memory": 227 * 1024 + 1}, "launch.shared_memory: Input should be less than or"),
    ],
)
def test_refusals_name_the_part_of_the_launch(launch: Any, message: str) -> None:
    assert refusal({"args": [], "launch": launch}).startswith(message)


def test_two_arguments_of_one_name_are_refused() -> None:
    assert refusal({"args": [tensor(), scalar("int", 1), tensor()]}) == (
        "args[2] 'x': args[0] has the same name: give every argument its own"
    )


def test_every_faulty_argument_is_reported_at_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        IOContract.model_validate({"args": [tensor(shape=[0]), scalar("int", 1.5)]})
    assert [error["loc"] for error in caught.value.errors()] == [
        ("args", 0, "tensor_spec", "shape", 0),
        ("args", 1),
    ]


def test_json_text_is_refused_in_the_same_words() -> None:
    contract = {"args": [tensor(shape=[0])]}
    with pytest.raises(ValidationError) as caught:
        IOContract.model_validate_json(json.dumps(contract))
    assert [error["msg"] for error in caught.value.errors()] == [refusal(contract)]


def test_an_argument_on_its_own_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="'x': a tensor needs a tensor_spec"):
        ArgSpec(name="x", type="tensor")


def test_errors_do_not_carry_the_data_back() -> None:
    huge = tensor(data={"data_b64": "A" * 100_000})
    with pytest.raises(ValidationError) as caught:
        IOContract.model_validate({"args": [huge]})
    assert len(str(caught.value.errors())) < 2_000


def test_data_beyond_the_limit_is_refused_before_it_is_inflated() -> None:
    claim = {"data_b64": "", "compress": "zlib"}
    half = tensor(shape=[MAX_LITERAL_BYTES // 2], dtype="uint8", data=claim)
    names = [half | {"name": name} for name in ("a", "b", "c")]
    # The empty string is no zlib stream: that is not what the message is about.
    assert refusal({"args": names}).startswith("args[2] 'c': with it the contract's data takes")


@pytest.mark.parametrize("kernel_type", ["triton", "cuda"])
@pytest.mark.parametrize("launch", [None, {}, {"block": {"x": 32}}])
def test_launched_kernels_need_a_grid(kernel_type: str, launch: Any) -> None:
    contract = IOContract.model_validate({"args": [], "launch": launch})
    with pytest.raises(ValueError, match=f"launch.grid is required for {kernel_type}"):
        require_launch(contract, kernel_type)


@pytest.mark.parametrize("kernel_type", ["torch", "torch_cuda", "multi_kernel"])
def test_other_kernels_need_no_launch(kernel_type: str) -> None:
    require_launch(IOContract(args=[]), kernel_type)


def test_a_grid_is_all_the_launch_that_is_needed() -> None:
    contract = IOContract(args=[], launch=LaunchConfig(grid=LaunchDim(x=1)))
    require_launch(contract, "triton")
    require_launch(contract, "cuda")


# Strides


@pytest.mark.parametrize(
    ("shape", "strides", "storage"),
    [
        ([2, 3], [3, 1], 6),
        ([2, 3], [1, 2], 6),
        ([2, 3], [8, 1], 11),
        ([2, 3], [1, 4], 10),
        ([2, 1, 3], [3, 1, 1], 6),
        ([2, 3, 4], [4, 8, 1], 24),
        ([5], [7], 29),
        ([2, 2], [3, 2], 6),
    ],
)
def test_strides_decide_the_memory(shape: list[int], strides: list[int], storage: int) -> None:
    spec = TensorSpec(shape=shape, strides=strides, dtype="float16")
    assert (spec.storage_numel, spec.nbytes) == (storage, 2 * storage)
    assert spec.literal_nbytes == 2 * math.prod(shape)


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_accepted_strides_never_let_elements_share_memory(
    shape: list[int], data: st.DataObject
) -> None:
    strides = data.draw(
        st.lists(st.integers(1, 40), min_size=len(shape), max_size=len(shape)), label="strides"
    )
    try:
        spec = TensorSpec(shape=shape, strides=strides)
    except ValidationError:
        return
    places = {0: ()}
    for extent, stride in zip(shape, strides, strict=True):
        places = {
            place + index * stride: (*where, index)  # type: ignore[misc]
            for place, where in places.items()
            for index in range(extent)
        }
    assert len(places) == spec.numel
    assert max(places) == spec.storage_numel - 1


@given(st.permutations([2, 3, 4]), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_any_order_of_dimensions_with_any_padding_is_accepted(
    order: list[int], padding: list[int]
) -> None:
    strides: dict[int, int] = {}
    step = 1
    for extent, pad in zip(order, padding, strict=True):
        strides[extent] = step
        step = step * extent + pad
    assert TensorSpec(shape=[2, 3, 4], strides=[strides[n] for n in (2, 3, 4)]).numel == 24


# JSON


def _limited(dtype: str) -> st.SearchStrategy[float]:
    kind = DTYPES[dtype]
    if kind.kind == "float":
        return st.floats(kind.lowest / 4, kind.highest / 4)
    return st.integers(int(kind.lowest), int(kind.highest))


@st.composite
def inits(draw: st.DrawFn, dtype: str, extent: int) -> dict[str, Any]:
    kind = draw(st.sampled_from(["randn", "zeros", "ones", "uniform", "full", "arange"]))
    seed = draw(st.none() | st.integers(0, 2**63 - 1))
    if kind == "uniform":
        low, high = sorted(draw(st.tuples(_limited(dtype), _limited(dtype))))
        return {"kind": kind, "seed": seed} | ({"low": low, "high": high} if low < high else {})
    if kind == "full":
        special = st.sampled_from([math.inf, -math.inf, "Infinity"])
        values = _limited(dtype)
        return {
            "kind": kind,
            "fill_value": draw(values | special if DTYPES[dtype].has_infinity else values),
        }
    if kind == "arange":
        step = draw(st.sampled_from([0.25, 1, -2] if DTYPES[dtype].kind == "float" else [1]))
        return {"kind": kind, "start": 0, "step": step if extent > 1 and dtype != "bool" else 1}
    if kind == "randn" and DTYPES[dtype].kind == "float":
        return {"kind": kind, "seed": seed, "mean": draw(_limited(dtype)), "std": 2}
    return {"kind": kind, "seed": seed}


@st.composite
def tensor_specs(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(1, 2), max_size=4))
    spec: dict[str, Any] = {"shape": shape, "dtype": dtype}
    source = draw(st.sampled_from(["init", "data", "neither"]))
    if source == "init":
        spec["init"] = draw(inits(dtype, shape[-1] if shape else 1))
    elif source == "data":
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        raw = draw(st.binary(min_size=nbytes, max_size=nbytes))
        raw = bytes(byte & 1 for byte in raw) if dtype == "bool" else raw
        compressions: list[Compression] = ["none", "zlib"]
        compress = draw(st.sampled_from(compressions))
        spec["data"] = {"data_b64": encode(raw, compress), "compress": compress}
    return spec


def _names() -> st.SearchStrategy[str]:
    return st.text(min_size=1, max_size=8).filter(str.isprintable)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["tensor", "int", "float", "bool", "str"]))
    argument: dict[str, Any] = {"name": draw(_names()), "type": kind}
    if kind == "tensor":
        role = draw(st.sampled_from(["input", "output", "inout"]))
        return argument | {"tensor_spec": draw(tensor_specs()), "role": role}
    values = {
        "int": st.integers(-(2**63), 2**64 - 1),
        "float": st.floats(allow_nan=False),
        "bool": st.booleans(),
        "str": st.text(max_size=8),
    }
    return argument | {"value": draw(values[kind]), "is_meta": draw(st.booleans())}


@st.composite
def contracts(draw: st.DrawFn) -> IOContract:
    args = draw(st.lists(arguments(), max_size=4, unique_by=lambda arg: str(arg["name"])))
    dims = st.builds(LaunchDim, x=st.integers(1, 8), y=st.integers(1, 8), z=st.integers(1, 8))
    launch = st.builds(
        LaunchConfig,
        grid=st.none() | dims,
        block=st.none() | dims,
        num_warps=st.sampled_from([None, 1, 2, 4, 8, 16, 32]),
        num_stages=st.none() | st.integers(1, 8),
        shared_memory=st.none() | st.integers(0, 227 * 1024),
    )
    return IOContract.model_validate({"args": args, "launch": draw(st.none() | launch)})


@given(contracts())
def test_contracts_survive_json(contract: IOContract) -> None:
    text = contract.model_dump_json()
    # Strict JSON: without the constants NaN and Infinity that other readers refuse.
    plain = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert IOContract.model_validate(plain) == contract
    assert IOContract.model_validate_json(text) == contract
    assert IOContract.model_validate(contract.model_dump()) == contract


def test_nan_survives_json() -> None:
    spec = TensorSpec(shape=[1], init=TensorInit(kind="full", fill_value=math.nan))
    again = TensorSpec.model_validate_json(spec.model_dump_json())
    assert again.init is not None
    assert isinstance(again.init.fill_value, float)
    assert math.isnan(again.init.fill_value)


def test_every_field_is_described_in_the_json_schema() -> None:
    schema = IOContract.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    fields = [field for model in models for field in model["properties"].values()]
    assert len(fields) > 25
    assert all(field.get("description") for field in fields)


def test_extensions_are_marked_as_such() -> None:
    definitions = IOContract.model_json_schema()["$defs"]
    for model, field in [
        ("ArgSpec", "dtype"),
        ("TensorSpec", "strides"),
        ("LaunchConfig", "shared_memory"),
    ]:
        assert definitions[model]["properties"][field]["description"].startswith("Extension: ")
