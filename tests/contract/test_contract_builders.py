"""The helper functions and the builder, as the manual writes them."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from kerneljudge.contract import (
    ArgSpec,
    IOContract,
    IOContractBuilder,
    LaunchConfig,
    LaunchDim,
    TensorData,
    TensorInit,
    TensorSpec,
    create_arange_spec,
    create_full_spec,
    create_ones_spec,
    create_randn_spec,
    create_tensor_spec,
    create_uniform_spec,
    create_zeros_spec,
)

pytestmark = pytest.mark.unit


def test_helpers_make_the_specs_of_the_manual() -> None:
    assert create_randn_spec(
        shape=[1024, 512], dtype="float32", seed=42, mean=0.5, std=2.0
    ) == TensorSpec(shape=[1024, 512], init=TensorInit(kind="randn", seed=42, mean=0.5, std=2.0))
    assert create_uniform_spec(
        shape=[1024], dtype="float16", seed=42, low=-1.0, high=3.0
    ) == TensorSpec(
        shape=[1024], dtype="float16", init=TensorInit(kind="uniform", seed=42, low=-1.0, high=3.0)
    )
    assert create_zeros_spec(shape=[2, 3], dtype="int8") == TensorSpec(
        shape=[2, 3], dtype="int8", init=TensorInit(kind="zeros")
    )
    assert create_ones_spec(shape=(2, 3)) == TensorSpec(shape=[2, 3], init=TensorInit(kind="ones"))
    assert create_full_spec(shape=[4], fill_value=3.14, dtype="float64") == TensorSpec(
        shape=[4], dtype="float64", init=TensorInit(kind="full", fill_value=3.14)
    )
    assert create_arange_spec(shape=[4], dtype="float32", start=1.0, step=2.0) == TensorSpec(
        shape=[4], init=TensorInit(kind="arange", start=1.0, step=2.0)
    )


def test_helpers_take_positional_arguments_in_the_manuals_order() -> None:
    assert create_randn_spec([4], "float16", 1, 2.0, 3.0).init == TensorInit(
        seed=1, mean=2.0, std=3.0
    )
    assert create_full_spec([4], 7).dtype == "float32"
    assert create_arange_spec([4], "int32", 2, 3).init == TensorInit(kind="arange", start=2, step=3)


@pytest.mark.parametrize(
    ("dtype", "bounds"), [("float32", (0, 1)), ("int32", (0, 100)), ("bool", (0, 2))]
)
def test_uniform_spec_writes_the_bounds_out(dtype: str, bounds: tuple[float, float]) -> None:
    init = create_uniform_spec([4], dtype).init
    assert init is not None
    assert (init.low, init.high) == bounds


def test_full_spec_may_be_infinite() -> None:
    init = create_full_spec([4], -math.inf).init
    assert init is not None
    assert init.fill_value == -math.inf


def test_tensor_spec_takes_data_and_strides() -> None:
    data = TensorData.from_bytes(bytes(4), [2, 2], "uint8")
    spec = create_tensor_spec([2, 2], "uint8", data=data, strides=[1, 2])
    assert (spec.data, spec.strides, spec.init) == (data, [1, 2], None)


def test_helpers_refuse_what_contracts_refuse() -> None:
    with pytest.raises(ValidationError, match="low below high"):
        create_uniform_spec([4], low=1.0, high=0.0)
    with pytest.raises(ValidationError, match="a step other than 0"):
        create_arange_spec([4], step=0)
    with pytest.raises(ValueError, match="unknown dtype 'half'"):
        create_uniform_spec([4], "half")


def test_builder_makes_the_complex_contract_of_the_manual() -> None:
    built = (
        IOContractBuilder()
        .add_input_tensor("x", create_randn_spec([1024, 512], dtype="float32", seed=42))
        .add_inout_tensor("weights", create_uniform_spec([512, 256], seed=43, low=-0.5, high=0.5))
        .add_output_tensor("result", shape=[1024, 256], dtype="float32")
        .add_scalar("alpha", "float", 2.0)
        .add_scalar("n_elements", "int", 1024)
        .add_meta_param("BLOCK_SIZE", value=256)
        .add_meta_param("NUM_STAGES", value=2)
        .set_launch_config(LaunchConfig(grid=LaunchDim(x=4, y=1, z=1), num_warps=4, num_stages=2))
        .build()
    )
    assert built == IOContract(
        args=[
            ArgSpec(name="x", type="tensor", tensor_spec=create_randn_spec([1024, 512], seed=42)),
            ArgSpec(
                name="weights",
                type="tensor",
                role="inout",
                tensor_spec=create_uniform_spec([512, 256], seed=43, low=-0.5, high=0.5),
            ),
            ArgSpec(
                name="result",
                type="tensor",
                role="output",
                tensor_spec=TensorSpec(shape=[1024, 256]),
            ),
            ArgSpec(name="alpha", type="float", value=2.0),
            ArgSpec(name="n_elements", type="int", value=1024),
            ArgSpec(name="BLOCK_SIZE", type="int", value=256, is_meta=True),
            ArgSpec(name="NUM_STAGES", type="int", value=2, is_meta=True),
        ],
        launch=LaunchConfig(grid=LaunchDim(x=4), num_warps=4, num_stages=2),
    )


def test_setters_add_to_the_launch_configuration() -> None:
    built = (
        IOContractBuilder()
        .set_launch_config(LaunchConfig(grid=LaunchDim(x=1), num_warps=8))
        .set_grid(4, 2)
        .set_block(32, 4, 2)
        .set_num_stages(3)
        .set_shared_memory(4096)
        .build()
    )
    assert built.launch == LaunchConfig(
        grid=LaunchDim(x=4, y=2),
        block=LaunchDim(x=32, y=4, z=2),
        num_warps=8,
        num_stages=3,
        shared_memory=4096,
    )
    assert IOContractBuilder().set_num_warps(2).build().launch == LaunchConfig(num_warps=2)


def test_set_launch_config_replaces_what_was_set() -> None:
    builder = IOContractBuilder().set_block(64).set_launch_config(LaunchConfig(num_warps=1))
    assert builder.build().launch == LaunchConfig(num_warps=1)


def test_a_contract_without_launch_settings_has_no_launch() -> None:
    assert IOContractBuilder().add_scalar("n", "int", 1).build().launch is None


def test_extensions_reach_the_arguments() -> None:
    built = (
        IOContractBuilder()
        .add_scalar("n", "int", 5, dtype="int64")
        .add_output_tensor("y", (2, 3), strides=(1, 2))
        .build()
    )
    assert built.args[0].dtype == "int64"
    assert built.args[1].tensor_spec == TensorSpec(shape=[2, 3], strides=[1, 2])


@pytest.mark.parametrize(
    ("value", "kind"), [(4, "int"), (True, "bool"), (0.5, "float"), ("relu", "str")]
)
def test_meta_parameters_have_the_type_of_their_value(
    value: int | bool | float | str, kind: str
) -> None:
    argument = IOContractBuilder().add_meta_param("P", value).build().args[0]
    assert (argument.type, argument.value, argument.is_meta) == (kind, value, True)


def test_builder_refuses_what_it_is_given_with_the_name() -> None:
    with pytest.raises(ValidationError, match=r"'n': value 1\.5 is of type float, not int"):
        IOContractBuilder().add_scalar("n", "int", 1.5)
    with pytest.raises(ValidationError, match=r"'y': tensor_spec.shape\[0\]: "):
        IOContractBuilder().add_output_tensor("y", [0])
    with pytest.raises(ValidationError, match="is 2048 threads"):
        IOContractBuilder().set_block(1024, 2)
    twice = IOContractBuilder().add_scalar("n", "int", 1).add_scalar("n", "int", 2)
    with pytest.raises(ValidationError, match=r"args\[1\] 'n': args\[0\] has the same name"):
        twice.build()


def test_a_built_contract_does_not_change_with_its_builder() -> None:
    builder = IOContractBuilder().add_scalar("a", "int", 1)
    first = builder.build()
    builder.add_scalar("b", "int", 2).set_grid(1)
    assert [argument.name for argument in first.args] == ["a"]
    assert first.launch is None
