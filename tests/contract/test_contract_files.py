"""Contracts, kernels and requests as JSON text and files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kerneljudge.contract import (
    IOContract,
    IOContractBuilder,
    create_full_spec,
    create_randn_spec,
    create_zeros_spec,
)
from kerneljudge.schema import KernelCode, KernelType, load_from_file, save_to_file, to_json

pytestmark = pytest.mark.unit


@pytest.fixture
def contract() -> IOContract:
    return (
        IOContractBuilder()
        .add_input_tensor("x_ptr", create_randn_spec([4096], seed=42))
        .add_input_tensor("mask", create_full_spec([4], -math.inf))
        .add_inout_tensor("count", create_zeros_spec([1], "int64"))
        .add_output_tensor("z_ptr", [4096])
        .add_scalar("limit", "float", math.inf)
        .add_meta_param("BLOCK_SIZE", 256)
        .set_grid(16)
        .set_num_warps(4)
        .build()
    )


@pytest.fixture
def kernel(contract: IOContract) -> KernelCode:
    return KernelCode(
        source_code="π = 3",
        kernel_type=KernelType.TRITON,
        io=contract,
        metadata={"kernel_name": "k", "mine": {"nothing": None, "big": math.inf}},
    )


def test_json_of_a_contract_is_strict_and_reads_back(contract: IOContract) -> None:
    text = to_json(contract)
    plain = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert IOContract.model_validate(plain) == contract
    assert "\n" not in text
    assert "null" not in text


def test_pretty_json_says_the_same_on_several_lines(contract: IOContract) -> None:
    pretty = to_json(contract, pretty=True)
    assert pretty.count("\n") > 10
    assert json.loads(pretty) == json.loads(to_json(contract))


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")
def test_requests_with_models_or_their_dicts_inside_become_json(kernel: KernelCode) -> None:
    request = {"kernel": kernel.dict(), "others": [kernel], "num_trials": 100}
    read = json.loads(to_json(request, pretty=True))
    assert read["num_trials"] == 100
    assert read["kernel"]["kernel_type"] == "triton"
    assert read["kernel"]["source_code"] == "π = 3"
    for form in (read["kernel"], *read["others"]):
        assert KernelCode.model_validate(form).io == kernel.io
        assert form["metadata"]["mine"] == {"nothing": None, "big": "Infinity"}


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        to_json({"a": {1}})


def test_files_read_back_as_what_was_saved(
    tmp_path: Path, contract: IOContract, kernel: KernelCode
) -> None:
    save_to_file(contract, str(tmp_path / "contract.json"), pretty=True)
    assert load_from_file(tmp_path / "contract.json", obj_type="IOContract") == contract
    assert load_from_file(tmp_path / "contract.json") == contract
    save_to_file(kernel.model_copy(update={"metadata": None}), tmp_path / "kernel.json")
    assert load_from_file(tmp_path / "kernel.json", "KernelCode").io == contract
    save_to_file({"kernel": kernel}, tmp_path / "request.json", pretty=False)
    assert load_from_file(tmp_path / "request.json", "dict")["kernel"]["source_code"] == "π = 3"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b'{"args": [{"name": "n", "type": "int"}]}', "args[0] 'n': a scalar of type int needs"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_name(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json") as caught:
        load_from_file(path)
    assert reason in str(caught.value)


def test_an_unknown_type_of_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use one of IOContract, KernelCode, dict"):
        load_from_file(tmp_path / "any.json", "Request")  # type: ignore[call-overload]
