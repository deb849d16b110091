"""`torch` kernels: what is called, with what it is constructed, and what is refused."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_runs import load, run

from kerneljudge.languages import LANGUAGES, LoadError, Refusal
from kerneljudge.schema import KernelCode, KernelType, Side

pytestmark = pytest.mark.unit

X: dict[str, Any] = {
    "name": "x",
    "type": "tensor",
    "tensor_spec": {"shape": [4, 4], "init": {"kind": "randn", "seed": 1}},
}
Y: dict[str, Any] = X | {
    "name": "y",
    "tensor_spec": {"shape": [4, 4], "init": {"kind": "randn", "seed": 2}},
}


def torch_kernel(source: str, *args: dict[str, Any], **metadata: Any) -> KernelCode:
    return KernelCode.model_validate(
        {
            "source_code": source,
            "kernel_type": "torch",
            "io": {"args": list(args)} if args else None,
            "metadata": metadata,
        }
    )


def refusal(source: str, side: Side = "candidate") -> Refusal:
    with pytest.raises(Refusal) as caught:
        LANGUAGES[KernelType.TORCH].read(torch_kernel(source), side)
    return caught.value


TARGETS = """
import torch

def standalone(x, y):
    return x + y

class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2

    def other(self, x):
        return x * 3

class ModelNew(torch.nn.Module):
    def forward(self, x):
        return x * 4
"""


def test_a_function_is_called_with_the_contract_in_order(tmp_path: Path) -> None:
    done = run(torch_kernel(TARGETS, X, Y, function_name="standalone"), tmp_path)
    assert done.name == "standalone"
    assert torch.equal(done.returned, done.given["x"] + done.given["y"])


def test_function_name_wins_over_class_and_method(tmp_path: Path) -> None:
    kernel = torch_kernel(
        TARGETS, X, Y, function_name="standalone", class_name="Model", method_name="other"
    )
    assert run(kernel, tmp_path).name == "standalone"


def test_a_method_is_called_on_an_instance(tmp_path: Path) -> None:
    done = run(torch_kernel(TARGETS, X, class_name="Model", method_name="other"), tmp_path)
    assert done.name == "Model.other"
    assert torch.equal(done.returned, done.given["x"] * 3)


@pytest.mark.parametrize(
    ("side", "name", "factor"),
    [("reference", "Model.forward", 2), ("candidate", "ModelNew.forward", 4)],
)
def test_a_candidate_prefers_model_new(tmp_path: Path, side: Side, name: str, factor: int) -> None:
    done = run(torch_kernel(TARGETS, X), tmp_path, side=side)
    assert done.name == name
    assert torch.equal(done.returned, done.given["x"] * factor)


def test_a_candidate_without_model_new_may_be_a_model(tmp_path: Path) -> None:
    source = TARGETS.replace("ModelNew", "Unused")
    assert run(torch_kernel(source, X), tmp_path).name == "Model.forward"


def test_a_missing_class_is_told_with_what_the_source_defines(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(torch_kernel("def add(x, y):\n    return x + y", X, Y), tmp_path)
    assert caught.value.message == "Class 'Model' not found"
    assert "functions add" in (caught.value.hint or "")
    assert "metadata.function_name" in (caught.value.hint or "")


def test_a_missing_function_is_told_with_what_the_source_defines(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(torch_kernel(TARGETS, X, function_name="missing"), tmp_path)
    assert caught.value.message == "Function 'missing' not found in module"
    assert "functions standalone" in (caught.value.hint or "")


def test_a_missing_method_is_told_with_the_methods(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(torch_kernel(TARGETS, X, class_name="Model", method_name="missing"), tmp_path)
    assert caught.value.message == "Method 'missing' not found in class 'Model'"
    assert "forward, other" in (caught.value.hint or "")


KERNELBENCH = """
import torch

class Model(torch.nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.linear = torch.nn.Linear(8, width, bias=bias)
        self.register_buffer("table", torch.arange(width))

    def forward(self, x, repeat, flag):
        return self.linear(x) * repeat if flag else x

def get_inputs():
    return [torch.randn(2, 8), 3, True]

def get_init_inputs():
    return INIT
"""


def test_the_kernelbench_pattern_keeps_ints_and_bools(tmp_path: Path) -> None:
    kernel = torch_kernel(KERNELBENCH.replace("INIT", "[4]"))
    loaded = load(kernel, tmp_path)
    inputs = loaded.make_inputs()
    assert inputs is not None
    assert inputs[1:] == [3, True]
    assert type(inputs[2]) is bool
    assert loaded(inputs).shape == (2, 4)
    assert loaded.init_inputs == [4]


def test_init_inputs_may_be_keywords(tmp_path: Path) -> None:
    kernel = torch_kernel(KERNELBENCH.replace("INIT", "{'width': 5, 'bias': False}"))
    loaded = load(kernel, tmp_path)
    inputs = loaded.make_inputs()
    assert inputs is not None
    assert loaded(inputs).shape == (2, 5)
    assert loaded.init_inputs == {"width": 5, "bias": False}


def test_a_source_without_init_inputs_is_given_the_references(tmp_path: Path) -> None:
    source = KERNELBENCH.partition("def get_init_inputs")[0]
    loaded = load(torch_kernel(source), tmp_path, init_inputs=[6])
    inputs = loaded.make_inputs()
    assert inputs is not None
    assert loaded(inputs).shape == (2, 6)


def test_equal_layers_get_equal_weights_on_both_sides(tmp_path: Path) -> None:
    source = KERNELBENCH.replace("INIT", "[4]")
    # What a source draws before it constructs must not move its weights.
    candidate = source.replace("import torch\n", "import torch\nUNUSED = torch.randn(5)\n", 1)
    reference = load(torch_kernel(source), tmp_path / "r", side="reference")
    other = load(torch_kernel(candidate), tmp_path / "c")
    x = torch.ones(2, 8)
    assert torch.equal(reference([x, 1, True]), other([x, 1, True]))
    assert not torch.equal(
        reference([x, 1, True]), load(torch_kernel(source), tmp_path / "s", seed=8)([x, 1, True])
    )


def test_inputs_by_name_are_passed_by_name(tmp_path: Path) -> None:
    source = """
import torch
class Model:
    def forward(self, *, b, a):
        return a - b
def get_inputs():
    return {"a": torch.full((2,), 5.0), "b": torch.ones(2)}
"""
    loaded = load(torch_kernel(source), tmp_path)
    inputs = loaded.make_inputs()
    assert loaded.input_names == ["a", "b"]
    assert inputs is not None
    assert loaded(inputs).tolist() == [4.0, 4.0]


def test_inputs_that_are_no_list_are_told(tmp_path: Path) -> None:
    source = "import torch\nclass Model:\n    pass\ndef get_inputs():\n    return torch.ones(2)"
    loaded = load(torch_kernel(source + "\ndef f(x):\n    return x", function_name="f"), tmp_path)
    with pytest.raises(LoadError, match=r"get_inputs\(\) must return a list.*not Tensor"):
        loaded.make_inputs()


def test_a_source_without_get_inputs_makes_none(tmp_path: Path) -> None:
    assert (
        load(torch_kernel("def f(x):\n    return x", function_name="f"), tmp_path).make_inputs()
        is None
    )


@pytest.mark.parametrize(("mode", "training"), [("train", True), ("eval", False), (None, False)])
def test_the_mode_is_applied(tmp_path: Path, mode: str | None, training: bool) -> None:
    source = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.eval()
    def forward(self, x):
        return self.training, self.dropout.training
"""
    metadata = {} if mode is None else {"mode": mode}
    done = run(torch_kernel(source, X, **metadata), tmp_path)
    assert done.returned == (training, training)


def test_a_mode_needs_a_module(tmp_path: Path) -> None:
    source = "class Model:\n    def forward(self, x):\n        return x"
    with pytest.raises(LoadError, match=r"metadata.mode is 'eval', and class 'Model' is no torch"):
        load(torch_kernel(source, X, mode="eval"), tmp_path)


def test_forward_runs_the_modules_hooks(tmp_path: Path) -> None:
    source = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda module, args, out: out + 1)
    def forward(self, x):
        return x
"""
    done = run(torch_kernel(source, X), tmp_path)
    assert torch.equal(done.returned, done.given["x"] + 1)


def test_the_source_is_a_real_module(tmp_path: Path) -> None:
    source = """
import torch
class Config:
    size = 3
class Model:
    def forward(self):
        return Config
    def name(self):
        return __name__
"""
    config = load(torch_kernel(source), tmp_path)([])
    assert config.__module__ != "__main__"
    assert pickle.loads(pickle.dumps(config)) is config
    assert "size = 3" in inspect.getsource(config)
    assert Path(sys.modules[config.__module__].__file__ or "").read_text() == source


def test_a_source_that_raises_leaves_no_module(tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError) as caught:
        load(torch_kernel("x = 1\ny = x / 0\n", X), tmp_path)
    assert str(tmp_path / "kernel.py") in str(caught.traceback[-1].path)
    assert not {name for name in set(sys.modules) - before if name.startswith("kernel_")}


def test_a_syntax_error_is_told_by_execution_not_refused(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError) as caught:
        load(torch_kernel("def f(:\n    pass"), tmp_path)
    assert caught.value.lineno == 1


def test_a_coding_cookie_does_not_change_the_text(tmp_path: Path) -> None:
    source = "# -*- coding: latin-1 -*-\ndef f(x):\n    return 'ä'"
    assert run(torch_kernel(source, X, function_name="f"), tmp_path).returned == "ä"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\nimport triton\n", "Don't mix Triton with TORCH: line 2: import triton"),
        (
            "def f():\n    from triton import language\n",
            "Don't mix Triton with TORCH: line 2",
        ),
        (
            "class Model:\n    def forward(self, x):\n        cuda_kernel = '''\n"
            "        __global__ void kernel() {}\n        '''\n        return x\n",
            "CUDA code in TORCH kernel: a string at line 3",
        ),
        (
            "from torch.utils.cpp_extension import load_inline\nm = load_inline(name='m')\n",
            "CUDA code in TORCH kernel: an extension is built at line 2",
        ),
        (
            "import torch\nclass Model(torch.nn.Module):\n    pass\nmodel = Model()\n",
            "Don't instantiate: execution code at module level, line 4: model = Model()",
        ),
        (
            'def test_model():\n    pass\nif __name__ == "__main__":\n    test_model()\n',
            'Remove test code: `if __name__ == "__main__"` block at line 3',
        ),
    ],
)
def test_unacceptable_sources_are_refused_in_the_manuals_words(source: str, words: str) -> None:
    caught = refusal(source)
    assert caught.message.startswith(words)
    assert len(caught.hint) > 20


@pytest.mark.parametrize(
    "source",
    [
        "from torch.utils._triton import has_triton\n",
        "import torch\nclass Model(torch.nn.Module):\n    '''Unlike a __global__ kernel.'''\n",
        "import torch\nmodel_class = torch.nn.Linear\nCONSTANT = torch.ones(3)\n",
        "import cupy\n",
        "def triton(x):\n    return x\n",
    ],
)
def test_honest_sources_are_not_refused(source: str) -> None:
    LANGUAGES[KernelType.TORCH].read(torch_kernel(source), "reference")


@pytest.mark.gpu
def test_models_inputs_and_buffers_are_on_the_gpu(tmp_path: Path) -> None:
    loaded = load(torch_kernel(KERNELBENCH.replace("INIT", "[4]")), tmp_path, device="cuda:0")
    inputs = loaded.make_inputs()
    assert inputs is not None
    assert inputs[0].is_cuda
    assert loaded(inputs).is_cuda


@pytest.mark.gpu
def test_a_source_may_draw_from_a_generator_of_its_own(tmp_path: Path) -> None:
    source = """
import torch
class Model(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.nn.Parameter(weight.cpu() + torch.rand(3, generator=generator))
    def forward(self, x):
        return x * self.weight
def get_inputs():
    return [torch.randn(3, generator=torch.Generator().manual_seed(0))]
def get_init_inputs():
    return [torch.zeros(3)]
"""
    loaded = load(torch_kernel(source), tmp_path, device="cuda:0")
    inputs = loaded.make_inputs()
    assert inputs is not None
    expected = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(inputs[0].cpu(), expected)
    assert loaded(inputs).is_cuda


def test_reading_imports_no_torch(has_no_torch: Callable[[str], bool]) -> None:
    assert has_no_torch(
        "from kerneljudge.languages import LANGUAGES\n"
        "from kerneljudge.schema import KernelCode, KernelType\n"
        "io = {'args': [], 'launch': {'grid': {'x': 1}}}\n"
        "for kind in ('torch', 'torch_cuda', 'triton', 'cuda', 'multi_kernel'):\n"
        "    source = '__global__ void k() {}' if kind == 'cuda' else 'import triton\\n'\n"
        "    kernel = KernelCode(source_code=source, kernel_type=kind, io=io,"
        " metadata={'entry_point': 'f'})\n"
        "    try:\n"
        "        LANGUAGES[KernelType(kind)].read(kernel, 'candidate')\n"
        "    except Exception as error:\n"
        "        assert type(error).__name__ == 'Refusal', error\n"
        "    LANGUAGES[KernelType(kind)].builds(kernel, 'sm_90')\n"
    )
