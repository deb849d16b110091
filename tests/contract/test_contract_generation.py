"""Generated values: what each kind gives, from which seed, in which memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.contract import (
    DTYPES,
    TensorSpec,
    argument_seed,
    data_from_tensor,
    trial_seed,
    value_seed,
)
from kerneljudge.contract.generation import allocate, fill, generate, torch_dtype

pytestmark = pytest.mark.unit

FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "float"]
INTEGERS = [name for name, dtype in DTYPES.items() if dtype.kind == "int"]
DRAWN = [("randn", name) for name in DTYPES] + [("uniform", name) for name in DTYPES]


def make(
    shape: list[int], dtype: str = "float32", *, seed: int = 1, strides: Any = None, **init: Any
) -> torch.Tensor:
    spec = TensorSpec.model_validate(
        {"shape": shape, "dtype": dtype, "init": init or None, "strides": strides}
    )
    return generate(spec, name="x", device="cpu", seed=seed)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float64)


# Kinds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("init", "value"),
    [
        ({"kind": "zeros"}, 0),
        ({"kind": "ones"}, 1),
        ({"kind": "full", "fill_value": 1.0}, 1),
        ({"kind": "full", "fill_value": 0}, 0),
    ],
)
def test_constants_fill_every_element(dtype: str, init: Any, value: int) -> None:
    tensor = make([3, 2], dtype, **init)
    assert tensor.dtype == torch_dtype(dtype)
    assert wide(tensor).tolist() == [[value] * 2] * 3


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float64", 0.1),
        ("float32", 3.14),
        ("float16", -math.inf),
        ("float8_e5m2", math.inf),
        ("float8_e4m3fn", 448.0),
        ("int64", 2**63 - 1),
        ("int8", -128),
        ("bool", True),
    ],
)
def test_full_holds_the_value_that_the_dtype_makes_of_it(dtype: str, value: Any) -> None:
    tensor = make([2], dtype, kind="full", fill_value=value)
    exact = torch.tensor(value, dtype=torch_dtype(dtype))
    assert tensor[0].item() == exact.item()
    assert tensor[1].item() == exact.item()


def test_full_of_nan_is_nan() -> None:
    assert make([2], "float8_e4m3fn", kind="full", fill_value="NaN").float().isnan().all()


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_arange_counts_along_the_last_dimension(dtype: str) -> None:
    tensor = make([2, 2, 4], dtype, kind="arange", start=1, step=2)
    assert wide(tensor).tolist() == [[[1, 3, 5, 7]] * 2] * 2


def test_arange_computes_in_full_precision() -> None:
    assert make([11], "float64", kind="arange", step=0.1)[10] == 10 * 0.1
    start = 2**62 + 1
    counted = make([3], "int64", kind="arange", start=start, step=-1)
    assert counted.tolist() == [start, start - 1, start - 2]


def test_arange_of_no_dimension_is_its_start() -> None:
    assert make([], kind="arange", start=5).item() == 5


def test_arange_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make([2, 10], kind="arange", start=3, step=0.5)
    monkeypatch.setattr("kerneljudge.contract.generation._PIECE", 4)
    assert torch.equal(make([2, 10], kind="arange", start=3, step=0.5), whole)


@pytest.mark.parametrize("dtype", FLOATS)
def test_randn_has_the_mean_and_deviation_asked_for(dtype: str) -> None:
    values = wide(make([100, 200], dtype, kind="randn", mean=3.0, std=0.5))
    assert values.mean().item() == pytest.approx(3.0, abs=0.05)
    assert values.std().item() == pytest.approx(0.5, rel=0.1)


def test_randn_of_float32_is_what_torch_draws_from_the_seed() -> None:
    ours = make([5, 7], seed=42)
    assert torch.equal(ours, torch.randn(5, 7, generator=torch.Generator().manual_seed(42)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_dtypes_are_rounded_from_float32(dtype: str) -> None:
    rounded = make([50], "float32", kind="randn").to(torch_dtype(dtype))
    assert torch.equal(wide(make([50], dtype, kind="randn")), wide(rounded))


@pytest.mark.parametrize("dtype", FLOATS)
def test_randn_never_leaves_the_finite_range(dtype: str) -> None:
    highest = DTYPES[dtype].highest
    values = wide(make([2000], dtype, kind="randn", std=highest / 1.5))
    assert values.isfinite().all()
    assert values.max().item() == highest
    assert values.min().item() == -highest


@pytest.mark.parametrize("dtype", INTEGERS)
def test_randn_of_integers_draws_from_all_values_alike(dtype: str) -> None:
    low, high = DTYPES[dtype].lowest, DTYPES[dtype].highest
    if dtype == "int64":
        low, high = -1_000_000, 1_000_000
    values = wide(make([20_000], dtype, kind="randn"))
    assert low <= values.min().item() <= values.max().item() <= high
    # Each of eight equal parts gets its share.
    parts = ((values - low) / (high - low + 1) * 8).long()
    assert (parts.bincount(minlength=8) / 20_000).tolist() == pytest.approx([1 / 8] * 8, rel=0.15)


@pytest.mark.parametrize("kind", ["randn", "uniform"])
def test_bools_are_true_half_of_the_time(kind: str) -> None:
    assert wide(make([10_000], "bool", kind=kind)).mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("dtype", "bounds", "low", "high"),
    [
        ("float32", {}, 0, 1),
        ("float64", {"low": -2.5, "high": -1.5}, -2.5, -1.5),
        ("bfloat16", {"low": 4, "high": 8}, 4, 8),
        ("float8_e5m2", {"low": -1}, -1, 1),
        ("int32", {}, 0, 100),
        ("int8", {}, 0, 100),
        ("uint8", {"low": 200, "high": 256}, 200, 256),
        ("int64", {"low": -3, "high": 3.0}, -3, 3),
    ],
)
def test_uniform_lies_between_its_bounds(dtype: str, bounds: Any, low: float, high: float) -> None:
    values = wide(make([5000], dtype, kind="uniform", **bounds))
    assert values.min().item() >= low
    if DTYPES[dtype].kind == "float":
        assert values.max().item() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=(high - low) / 20)
    else:
        assert sorted(set(values.tolist())) == list(range(int(low), int(high)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_can_be_drawn_over_its_whole_range(dtype: str) -> None:
    limits = DTYPES[dtype]
    if limits.kind == "float":
        low, high = 0.0, limits.highest
    else:
        low, high = limits.lowest, min(limits.highest + 1, 2**63 - 1)
    values = wide(make([500], dtype, kind="uniform", low=low, high=high))
    assert values.max().item() >= (low + high) / 2
    assert values.isfinite().all()


def test_a_tensor_with_neither_init_nor_data_is_drawn_normally() -> None:
    assert torch.equal(make([40]), make([40], kind="randn"))


def test_data_is_what_the_tensor_holds() -> None:
    values = torch.randn(3, 5).to(torch.bfloat16)
    spec = TensorSpec(shape=[3, 5], dtype="bfloat16", data=data_from_tensor(values, "zlib"))
    assert torch.equal(generate(spec, name="x", device="cpu", seed=0), values)


# Seeds


@pytest.mark.parametrize(("kind", "dtype"), DRAWN)
def test_the_same_seed_gives_the_same_values_and_another_other_ones(kind: str, dtype: str) -> None:
    first, again, other = (wide(make([64], dtype, kind=kind, seed=seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    make([10])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_passed_counts_and_not_the_one_written_in_the_spec() -> None:
    spec = TensorSpec.model_validate({"shape": [9], "init": {"seed": 5}})
    assert torch.equal(generate(spec, name="x", device="cpu", seed=1), make([9], seed=1))


SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS)
def test_the_first_trial_has_the_seed_itself(seed: int) -> None:
    assert trial_seed(seed, 0) == seed


@given(SEEDS, st.integers(0, 10_000), st.integers(0, 10_000))
def test_trials_have_seeds_of_their_own_and_always_the_same(seed: int, a: int, b: int) -> None:
    assert 0 <= trial_seed(seed, a) < 2**63
    assert (trial_seed(seed, a) == trial_seed(seed, b)) == (a == b)


@given(SEEDS, SEEDS, st.integers(0, 1000), st.integers(0, 1000))
def test_arguments_have_seeds_of_their_own(job: int, other_job: int, a: int, b: int) -> None:
    assert 0 <= argument_seed(job, a) < 2**63
    same = (job, a) == (other_job, b)
    assert (argument_seed(job, a) == argument_seed(other_job, b)) == same


def test_derived_seeds_do_not_change_from_release_to_release() -> None:
    assert trial_seed(42, 1) == 5021003813168289832
    assert argument_seed(42, 1) == 7804072467355061138


def test_a_seed_in_the_spec_is_that_of_the_first_trial_and_of_no_later_one() -> None:
    seeded = TensorSpec.model_validate({"shape": [1], "init": {"seed": 5}})
    assert value_seed(seeded, job_seed=9, position=3, trial=0) == 5
    for trial in (1, 2):
        later = value_seed(seeded, job_seed=9, position=3, trial=trial)
        assert later == trial_seed(argument_seed(9, 3), trial)
        assert later != value_seed(seeded, job_seed=10, position=3, trial=trial)
    for unseeded in (TensorSpec(shape=[1]), TensorSpec.model_validate({"shape": [1], "init": {}})):
        assert value_seed(unseeded, job_seed=9, position=3, trial=0) == argument_seed(9, 3)
        assert value_seed(unseeded, job_seed=9, position=3, trial=2) == trial_seed(
            argument_seed(9, 3), 2
        )


@pytest.mark.parametrize(("kind", "dtype"), DRAWN)
def test_each_trial_draws_other_values_than_the_last(kind: str, dtype: str) -> None:
    drawn = [wide(make([64], dtype, kind=kind, seed=trial_seed(42, t))) for t in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


# Memory


@pytest.mark.parametrize(
    "init",
    [
        {"kind": "randn"},
        {"kind": "uniform"},
        {"kind": "arange"},
        {"kind": "full", "fill_value": 1},
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strides", [[1, 4], [5, 1], [2, 9], [2, 1]])
def test_values_do_not_depend_on_strides(dtype: str, init: Any, strides: list[int]) -> None:
    strided = make([4, 2], dtype, strides=strides, **init)
    assert list(strided.stride()) == strides
    assert torch.equal(wide(strided), wide(make([4, 2], dtype, **init)))


def test_data_keeps_its_order_in_any_strides() -> None:
    values = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    spec = TensorSpec(shape=[2, 3], dtype="int16", data=data_from_tensor(values), strides=[1, 2])
    tensor = generate(spec, name="x", device="cpu", seed=0)
    assert torch.equal(tensor, values)
    assert tensor.stride() == (1, 2)


def test_the_gaps_between_strided_elements_hold_zeros() -> None:
    spec = TensorSpec.model_validate({"shape": [2, 2], "strides": [4, 1], "init": {"kind": "ones"}})
    tensor = generate(spec, name="x", device="cpu", seed=0)
    storage = tensor.as_strided((spec.storage_numel,), (1,))
    assert storage.tolist() == [1, 1, 0, 0, 1, 1]
    assert tensor.untyped_storage().nbytes() == spec.nbytes


def test_fill_writes_into_the_memory_it_is_given() -> None:
    memory = torch.zeros(12)
    spec = TensorSpec(shape=[2, 3])
    fill(memory[3:9].view(2, 3), spec, 1, name="x")
    assert torch.equal(memory[3:9].view(2, 3), make([2, 3]))
    assert memory[:3].tolist() == memory[9:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "tensor", [torch.empty(3, 2), torch.empty(6), torch.empty(2, 3, dtype=torch.float64)]
)
def test_fill_refuses_a_tensor_that_is_not_the_specs(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^'weights': a tensor of shape .* cannot hold"):
        fill(tensor, TensorSpec(shape=[2, 3]), 1, name="weights")


def test_data_that_is_wrong_is_refused_with_the_name() -> None:
    spec = TensorSpec.model_validate({"shape": [4], "data": {"data_b64": "AAAA"}})
    with pytest.raises(ValueError, match=r"^'weights': data_b64 has 4 characters"):
        generate(spec, name="weights", device="cpu", seed=0)


def test_allocate_gives_the_shape_dtype_and_strides() -> None:
    plain = allocate(TensorSpec(shape=[2, 3], dtype="float8_e5m2"), device="cpu")
    assert (plain.shape, plain.dtype, plain.stride()) == ((2, 3), torch.float8_e5m2, (3, 1))
    strided = allocate(TensorSpec(shape=[2, 3], strides=[1, 2]), device="cpu")
    assert strided.stride() == (1, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "init",
    [
        {"kind": "randn"},
        {"kind": "uniform"},
        {"kind": "arange"},
        {"kind": "zeros"},
        {"kind": "full", "fill_value": 1},
    ],
)
def test_every_kind_and_dtype_is_generated_on_a_gpu(dtype: str, init: Any) -> None:
    spec = TensorSpec.model_validate(
        {"shape": [37, 2], "dtype": dtype, "init": init, "strides": [1, 40]}
    )
    first, again = (generate(spec, name="x", device="cuda", seed=3) for _ in range(2))
    assert first.is_cuda
    assert first.stride() == (1, 40)
    assert torch.equal(wide(first), wide(again))
    plain = TensorSpec.model_validate({"shape": [37, 2], "dtype": dtype, "init": init})
    contiguous = generate(plain, name="x", device="cuda", seed=3)
    assert torch.equal(wide(first), wide(contiguous))
    if init["kind"] in ("arange", "zeros", "full"):
        assert torch.equal(wide(first).cpu(), wide(generate(spec, name="x", device="cpu", seed=3)))
