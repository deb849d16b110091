"""`triton` kernels: which is launched, how arguments are bound, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_runs import KernelRun, argument, load

from kerneljudge.contract import ArgSpec
from kerneljudge.languages import LANGUAGES, LoadError, Refusal
from kerneljudge.languages.triton import Parameter, bind
from kerneljudge.schema import KernelCode, KernelType

Interpret = Callable[..., KernelRun]


def tensor(name: str, role: str = "input", size: int = 64) -> dict[str, Any]:
    spec: dict[str, Any] = {"shape": [size], "dtype": "float32"}
    if role != "output":
        spec["init"] = {"kind": "randn", "seed": sum(name.encode())}
    return {"name": name, "type": "tensor", "role": role, "tensor_spec": spec}


def scalar(name: str, value: Any, *, meta: bool = False) -> dict[str, Any]:
    return {"name": name, "type": type(value).__name__, "value": value, "is_meta": meta}


def triton_kernel(
    source: str, *args: dict[str, Any], launch: dict[str, Any] | None = None, **metadata: Any
) -> KernelCode:
    return KernelCode.model_validate(
        {
            "source_code": source,
            "kernel_type": "triton",
            "io": {"args": list(args), "launch": {"grid": {"x": 4}} | (launch or {})},
            "metadata": metadata,
        }
    )


ADD = """
import triton
import triton.language as tl

@triton.jit
def add_kernel(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + y, mask=mask)

@triton.jit
def sub_kernel(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x - y, mask=mask)
"""

TENSORS = (tensor("x_ptr"), tensor("y_ptr"), tensor("z_ptr", "output"))
ADD_ARGS = (*TENSORS, scalar("n", 60), scalar("BLOCK", 16, meta=True))


def added(done: KernelRun, x: str = "x_ptr", y: str = "y_ptr", z: str = "z_ptr") -> bool:
    """Whether the first 60 elements are sums, and the last 4, beyond n, untouched."""
    expected = done.given[z].clone()
    expected[:60] = (done.given[x] + done.given[y])[:60]
    return torch.equal(done.after[z], expected)


class TestBinding:
    """Which argument goes to which parameter."""

    pytestmark = pytest.mark.unit

    KERNEL = (
        Parameter("a", constexpr=False),
        Parameter("M", constexpr=True),
        Parameter("b", constexpr=False),
        Parameter("N", constexpr=True),
    )

    def names(self, *args: dict[str, Any], **options: Any) -> dict[str, str]:
        """Parameter → argument."""
        specs = [ArgSpec.model_validate(arg) for arg in args]
        parameters = options.pop("parameters", self.KERNEL)
        binding = bind(specs, parameters, **options)
        leading = {
            parameter.name: specs[index].name
            for parameter, index in zip(parameters, binding.positional, strict=False)
        }
        return leading | {name: specs[index].name for name, index in binding.keywords}

    @pytest.mark.parametrize(
        "order", [("a", "M", "b", "N"), ("N", "b", "M", "a"), ("b", "a", "M", "N")]
    )
    def test_names_decide_where_all_of_them_match(self, order: tuple[str, ...]) -> None:
        args = {
            "a": tensor("a"),
            "b": tensor("b"),
            "M": scalar("M", 1, meta=True),
            "N": scalar("N", 2, meta=True),
        }
        bound = self.names(*(args[name] for name in order))
        assert bound == {"a": "a", "M": "M", "b": "b", "N": "N"}

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_metas_go_to_their_names_in_any_place(self, place: int) -> None:
        args = [tensor("x"), tensor("y")]
        args[place:place] = [scalar("N", 2, meta=True), scalar("M", 1, meta=True)]
        assert self.names(*args) == {"a": "x", "b": "y", "M": "M", "N": "N"}

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_metas_of_other_names_go_by_their_own_order(self, place: int) -> None:
        args = [tensor("x"), tensor("y")]
        args[place:place] = [scalar("first", 1, meta=True), scalar("second", 2, meta=True)]
        assert self.names(*args) == {"a": "x", "b": "y", "M": "first", "N": "second"}

    def test_position_decides_where_a_constant_is_not_marked_meta(self) -> None:
        args = (tensor("x"), scalar("first", 1), tensor("y"), scalar("second", 2))
        assert self.names(*args) == {"a": "x", "M": "first", "b": "y", "N": "second"}

    def test_a_scalar_with_the_name_of_a_constexpr_goes_to_it(self) -> None:
        args = (scalar("N", 2), tensor("x"), tensor("y"), scalar("M", 1))
        assert self.names(*args) == {"a": "x", "b": "y", "M": "M", "N": "N"}

    def test_a_crossed_name_is_noted(self) -> None:
        parameters = (Parameter("rows", constexpr=False), Parameter("columns", constexpr=False))
        specs = [ArgSpec.model_validate(arg) for arg in (scalar("columns", 1), scalar("other", 2))]
        binding = bind(specs, parameters)
        assert binding.positional == (0, 1)
        assert "'columns' is passed, by position, as parameter 'rows'" in binding.notes[0]

    def test_leading_plain_parameters_are_positional_and_the_rest_by_keyword(self) -> None:
        args = (tensor("a"), tensor("b"), scalar("M", 1, meta=True), scalar("N", 2, meta=True))
        binding = bind([ArgSpec.model_validate(arg) for arg in args], self.KERNEL)
        assert binding.positional == (0,)
        assert binding.keywords == (("M", 2), ("b", 1), ("N", 3))

    def test_an_unbound_parameter_is_named(self) -> None:
        with pytest.raises(
            LoadError, match="Parameter 'N' of the kernel has no argument"
        ) as caught:
            self.names(tensor("a"), scalar("M", 1, meta=True), tensor("b"))
        assert "is_meta: true" in (caught.value.hint or "")

    def test_a_parameter_with_a_default_may_be_unbound(self) -> None:
        parameters = (*self.KERNEL[:3], Parameter("N", constexpr=True, has_default=True))
        args = (tensor("a"), scalar("M", 1, meta=True), tensor("b"))
        assert "N" not in self.names(*args, parameters=parameters)

    def test_a_surplus_argument_is_named(self) -> None:
        args = (tensor("x"), tensor("y"), tensor("z"), scalar("M", 1, meta=True))
        with pytest.raises(LoadError, match="Argument 'z' of the contract has no parameter left"):
            self.names(*args, scalar("N", 1, meta=True))

    def test_a_launch_option_as_a_meta_argument_is_sent_to_the_launch(self) -> None:
        args = (tensor("a"), tensor("b"), scalar("M", 1, meta=True), scalar("N", 2, meta=True))
        with pytest.raises(LoadError, match="'num_warps'") as caught:
            self.names(*args, scalar("num_warps", 4, meta=True))
        assert "launch.num_warps" in (caught.value.hint or "")

    def test_an_error_says_how_to_name_another_kernel(self) -> None:
        with pytest.raises(LoadError) as caught:
            self.names(tensor("a"), other_kernels=["real_kernel"])
        assert "real_kernel" in (caught.value.hint or "")
        assert "metadata.kernel_name" in (caught.value.hint or "")

    def test_a_decided_parameter_takes_no_argument(self) -> None:
        args = (tensor("x"), tensor("y"), scalar("only", 2, meta=True))
        assert self.names(*args, decided=["M"]) == {"a": "x", "b": "y", "N": "only"}

    def test_an_argument_for_a_decided_parameter_is_an_error(self) -> None:
        with pytest.raises(LoadError, match="'M' of the contract is a parameter that the kernel"):
            self.names(tensor("a"), tensor("b"), scalar("M", 1, meta=True), decided=["M"])


@pytest.mark.integration
@pytest.mark.triton
class TestInterpreted:
    """Whole kernels on a CPU."""

    def test_the_first_kernel_is_launched(self, interpret: Interpret) -> None:
        done = interpret(triton_kernel(ADD, *ADD_ARGS))
        assert done.name == "add_kernel"
        assert done.returned is None
        assert added(done)

    def test_the_named_kernel_is_launched(self, interpret: Interpret) -> None:
        done = interpret(triton_kernel(ADD, *ADD_ARGS, kernel_name="sub_kernel"))
        assert done.name == "sub_kernel"
        difference = (done.given["x_ptr"] - done.given["y_ptr"])[:60]
        assert torch.equal(done.after["z_ptr"][:60], difference)

    def test_an_unknown_kernel_is_told_with_the_known_ones(self, interpret: Interpret) -> None:
        with pytest.raises(LoadError, match="Kernel 'mul_kernel' not found") as caught:
            interpret(triton_kernel(ADD, *ADD_ARGS, kernel_name="mul_kernel"))
        assert "add_kernel, sub_kernel" in (caught.value.hint or "")

    @pytest.mark.parametrize("place", range(5))
    def test_a_meta_argument_may_stand_anywhere(self, interpret: Interpret, place: int) -> None:
        args = [tensor("x"), tensor("y"), tensor("z", "output"), scalar("count", 60)]
        args.insert(place, scalar("BLOCK", 16, meta=True))
        assert added(interpret(triton_kernel(ADD, *args)), "x", "y", "z")

    def test_warps_and_stages_do_not_disturb_the_interpreter(self, interpret: Interpret) -> None:
        launch = {"num_warps": 8, "num_stages": 3}
        assert added(interpret(triton_kernel(ADD, *ADD_ARGS, launch=launch)))

    def test_the_grid_has_three_dimensions(self, interpret: Interpret) -> None:
        source = """
import triton
import triton.language as tl

@triton.jit
def where(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tl.store(out + x + 2 * y + 6 * z, x + 10.0 * y + 100.0 * z)
"""
        launch = {"grid": {"x": 2, "y": 3, "z": 4}}
        done = interpret(triton_kernel(source, tensor("out", "output", 24), launch=launch))
        expected = [x + 10.0 * y + 100.0 * z for z in range(4) for y in range(3) for x in range(2)]
        assert done.after["out"].tolist() == expected

    def test_an_autotuned_kernel_decides_its_own_options(self, interpret: Interpret) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.autotune(configs=[triton.Config({'BLOCK': 16}, num_warps=2)], key=['n'])\n"
            "@triton.jit\ndef add_kernel",
        )
        launch = {"num_warps": 4, "num_stages": 2}
        done = interpret(triton_kernel(source, *ADD_ARGS[:4], launch=launch))
        assert added(done)
        assert len(done.notes) == 2
        assert "launch.num_warps = 4 of the contract is not used" in done.notes[0]
        assert "@triton.autotune" in done.notes[0]

    def test_an_autotuner_chooses_by_the_hosts_clock(self, interpret: Interpret) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.autotune(configs=[triton.Config({'BLOCK': 16}), "
            "triton.Config({'BLOCK': 32})], key=['n'])\n@triton.jit\ndef add_kernel",
        )
        assert added(interpret(triton_kernel(source, *ADD_ARGS[:4])))

    def test_a_kernel_may_ask_for_its_target(self, interpret: Interpret) -> None:
        source = (
            ADD + "IS_HIP = triton.runtime.driver.active.get_current_target().backend == 'hip'\n"
        )
        assert added(interpret(triton_kernel(source, *ADD_ARGS)))

    def test_a_tuned_parameter_in_the_contract_is_an_error(self, interpret: Interpret) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.autotune(configs=[triton.Config({'BLOCK': 16})], key=['n'])\n"
            "@triton.jit\ndef add_kernel",
        )
        with pytest.raises(LoadError, match="Argument 'BLOCK' of the contract is a parameter"):
            interpret(triton_kernel(source, *ADD_ARGS))

    def test_heuristics_supply_their_parameters(self, interpret: Interpret) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.heuristics({'BLOCK': lambda args: 16 if args['n'] > 8 else 8})\n"
            "@triton.jit\ndef add_kernel",
        )
        done = interpret(triton_kernel(source, *ADD_ARGS[:4], launch={"num_warps": 4}))
        assert added(done)
        assert done.notes == []

    def test_a_kernel_made_by_a_call_is_found(self, interpret: Interpret) -> None:
        source = ADD.replace("@triton.jit\n", "") + "\nadd = triton.jit(add_kernel)\n"
        done = interpret(triton_kernel(source, *ADD_ARGS))
        assert done.name == "add"
        assert added(done)

    def test_kernels_of_triton_itself_are_not_the_submissions(self, interpret: Interpret) -> None:
        source = "from triton.language.standard import cdiv\n" + ADD
        assert interpret(triton_kernel(source, *ADD_ARGS)).name == "add_kernel"

    def test_postponed_annotations_are_read(self, interpret: Interpret) -> None:
        source = "from __future__ import annotations\n" + ADD
        args = (scalar("WIDTH", 16, meta=True), *TENSORS, scalar("count", 60))
        assert added(interpret(triton_kernel(source, *args)))

    def test_an_option_that_is_a_parameter_must_agree_with_the_launch(
        self, interpret: Interpret
    ) -> None:
        source = ADD.replace(
            "BLOCK: tl.constexpr)", "BLOCK: tl.constexpr, num_warps: tl.constexpr)"
        )
        args = (*ADD_ARGS, scalar("num_warps", 4, meta=True))
        assert added(interpret(triton_kernel(source, *args, launch={"num_warps": 4})))
        with pytest.raises(LoadError, match=r"launch\.num_warps = 8 contradicts"):
            interpret(triton_kernel(source, *args, launch={"num_warps": 8}))

    def test_an_unused_dtype_is_noted(self, interpret: Interpret) -> None:
        args = (*TENSORS, scalar("n", 60) | {"dtype": "int64"}, scalar("BLOCK", 16, meta=True))
        assert "dtype int64 of argument 'n'" in interpret(triton_kernel(ADD, *args)).notes[0]

    def test_a_source_with_jit_but_no_kernel_is_an_error(self, interpret: Interpret) -> None:
        with pytest.raises(LoadError, match=r"No @triton\.jit kernels found"):
            interpret(triton_kernel("import triton\nFLAG = triton.jit is None\n", *TENSORS))


@pytest.mark.unit
class TestRefusals:
    """The static rules."""

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (
                ADD + "import torch.nn as nn\nclass Model(nn.Module):\n    pass\n",
                "Don't mix models with Triton: line ",
            ),
            (
                ADD + "def launch_kernel(x, y):\n    grid = (1024,)\n    add_kernel[grid](x, y)\n",
                "Don't include launchers: line 22: add_kernel[grid](x, y)",
            ),
            (ADD + "def go(x):\n    add_kernel.run(x, grid=(1,))\n", "Don't include launchers"),
            (
                ADD + 'if __name__ == "__main__":\n    test_triton_kernel()\n',
                "Remove test code",
            ),
            (ADD + "add_kernel[(1,)](1, 2, 3, 4, 5)\n", "Don't execute"),
            ("import triton\ndef my_kernel(x):\n    pass\n", "No @triton.jit kernels found"),
        ],
    )
    def test_unacceptable_sources_are_refused_in_the_manuals_words(
        self, source: str, words: str
    ) -> None:
        with pytest.raises(Refusal) as caught:
            LANGUAGES[KernelType.TRITON].read(triton_kernel(source, *ADD_ARGS), "candidate")
        assert caught.value.message.startswith(words)
        assert len(caught.value.hint) > 20

    def test_a_launcher_is_sent_to_multi_kernel(self) -> None:
        source = ADD + "def run(x):\n    add_kernel[(1,)](x)\n"
        with pytest.raises(Refusal) as caught:
            LANGUAGES[KernelType.TRITON].read(triton_kernel(source, *ADD_ARGS), "candidate")
        assert "multi_kernel" in caught.value.hint

    def test_a_contract_without_a_grid_is_refused(self) -> None:
        kernel = triton_kernel(ADD, *ADD_ARGS)
        assert kernel.io is not None
        kernel.io.launch = None
        with pytest.raises(Refusal, match=r"launch\.grid is required for triton"):
            LANGUAGES[KernelType.TRITON].read(kernel, "candidate")

    @pytest.mark.parametrize(
        "source",
        [
            ADD + "def calculate_grid(n, block_size):\n    return (n + block_size - 1)\n",
            ADD + "class Config:\n    block = 3\nCONFIG = Config()\n",
            "from triton import jit as kernel\n@kernel\ndef k(x):\n    pass\n",
            "import triton as tr\n@tr.jit\ndef k(x):\n    pass\n",
            "import triton\n@triton.jit\ndef helper(x):\n    return x\n"
            "@triton.jit\ndef k(x):\n    helper(x)\n",
            "import triton\nBLOCK = triton.next_power_of_2(100)\n"
            "@triton.jit\ndef k(x):\n    pass\n",
            '"""A kernel for nn.Module users; launch it with kernel[grid](x)."""\n' + ADD,
        ],
    )
    def test_honest_sources_are_not_refused(self, source: str) -> None:
        LANGUAGES[KernelType.TRITON].read(triton_kernel(source, *ADD_ARGS), "candidate")


@pytest.mark.gpu
@pytest.mark.triton
class TestCompiled:
    """Whole kernels on a GPU."""

    @pytest.mark.parametrize(("warps", "stages"), [(1, 1), (8, 4)])
    def test_warps_and_stages_are_applied(self, tmp_path: Path, warps: int, stages: int) -> None:
        launch = {"num_warps": warps, "num_stages": stages}
        kernel = triton_kernel(ADD, *ADD_ARGS, launch=launch)
        loaded: Any = load(kernel, tmp_path, device="cuda:0")
        arguments = self.arguments(kernel)
        loaded(arguments)
        assert loaded.compiled.metadata.num_warps == warps
        assert loaded.compiled.metadata.num_stages == stages
        assert torch.equal(arguments[2][:60], (arguments[0] + arguments[1])[:60])

    def test_an_autotuner_chooses_among_its_own_configs(self, tmp_path: Path) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.autotune(configs=[triton.Config({'BLOCK': 16}, num_warps=1), "
            "triton.Config({'BLOCK': 32}, num_warps=2)], key=['n'])\n@triton.jit\ndef add_kernel",
        )
        kernel = triton_kernel(source, *ADD_ARGS[:4], launch={"num_warps": 8})
        loaded: Any = load(kernel, tmp_path, device="cuda:0")
        arguments = self.arguments(kernel)
        loaded(arguments)
        assert loaded.compiled.metadata.num_warps in (1, 2)
        assert "num_warps = 8" in loaded.notes[0]
        assert torch.equal(arguments[2][:60], (arguments[0] + arguments[1])[:60])

    def test_heuristics_leave_the_contracts_warps(self, tmp_path: Path) -> None:
        source = ADD.replace(
            "@triton.jit\ndef add_kernel",
            "@triton.heuristics({'BLOCK': lambda args: 16})\n@triton.jit\ndef add_kernel",
        )
        kernel = triton_kernel(source, *ADD_ARGS[:4], launch={"num_warps": 2})
        loaded: Any = load(kernel, tmp_path, device="cuda:0")
        loaded(self.arguments(kernel))
        assert loaded.compiled.metadata.num_warps == 2

    def arguments(self, kernel: KernelCode) -> list[Any]:
        assert kernel.io is not None
        return [argument(spec, index, "cuda:0") for index, spec in enumerate(kernel.io.args)]
