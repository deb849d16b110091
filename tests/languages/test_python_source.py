"""The rules of Python sources: what is execution code, and what is a definition."""

from __future__ import annotations

import contextlib
import gc
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kerneljudge.languages.base import Refusal
from kerneljudge.languages.python_source import PythonSource, refuse_unless_definitions

pytestmark = pytest.mark.unit


def parse(text: str) -> PythonSource:
    source = PythonSource.parse(textwrap.dedent(text))
    assert source is not None
    return source


MODEL = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def forward(self, x):
        return x

def my_kernel(x):
    return x * 2

"""

BUILT = """
from torch.utils.cpp_extension import load_inline

module = load_inline(name="m", cpp_sources=cpp, cuda_sources=cuda, functions=["forward"])
"""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (MODEL + "model = Model()", "Don't instantiate"),
        (MODEL + "model = Model().cuda().eval()", "Don't instantiate"),
        (MODEL + "class Big(Model):\n    pass\nmodel = Big()", "Don't instantiate"),
        (MODEL + "for _ in range(2):\n    m = Model()", "Don't instantiate"),
        (MODEL + "result = my_kernel(torch.randn(10))", "Don't execute"),
        (MODEL + "x = torch.randn(10)\nresult = my_kernel(x)", "Don't execute"),
        (MODEL + "import numpy as np\ny = my_kernel(x=np.zeros(3))", "Don't execute"),
        (MODEL + "my_kernel(1)", "Don't execute"),
        (MODEL + "print(my_kernel(1))", "Don't execute"),
        (BUILT + "module.forward(torch.randn(10))", "Don't execute"),
        (BUILT + "y = module.forward(x)", "Don't execute"),
        ("k = cp.RawKernel(code, 'k')\nk((1,), (1,), ())", "Don't execute"),
        (
            "import triton\n@triton.jit\ndef add(x):\n    pass\nadd[(1,)](3)",
            "Don't execute",
        ),
        ("class Engine:\n    pass\ne = Engine()\ny = e(torch.randn(3))", "Don't execute"),
    ],
)
def test_execution_code_is_refused_with_its_line(text: str, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        refuse_unless_definitions(parse(text))
    assert caught.value.message.startswith(word)
    assert "execution code at module level, line " in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "import triton\nBLOCK = triton.next_power_of_2(100)",
        "def table(n):\n    return [i * i for i in range(n)]\nTABLE = table(8)",
        "import torch\ndef hadamard(m):\n    return m\nH = hadamard(torch.eye(4))",
        "from dataclasses import dataclass\n@dataclass\nclass Tile:\n    m: int\nTILE = Tile(64)",
        "import torch\nWEIGHTS = torch.randn(10)\ntorch.manual_seed(0)",
        "import triton\ndef configs():\n    return [triton.Config({})]\n"
        "@triton.autotune(configs=configs(), key=[])\n@triton.jit\ndef k(x):\n    pass",
        "CONFIGS = []\ndef make(n):\n    return n\nCONFIGS.append(make(3))",
        BUILT,
        BUILT + "forward = module.forward",
        "from torch.utils.cpp_extension import load_inline\n"
        "def build():\n    return load_inline(name='m')\nmodule = build()",
        "from torch.utils import cpp_extension\n_module = None\n"
        "def compile_it():\n    global _module\n    _module = cpp_extension.load_inline(name='m')\n"
        "def setup():\n    compile_it()\nsetup()",
        "import cupy as cp\nmodule = cp.RawModule(code='x')\nk = module.get_function('k')",
        "import torch\n@torch.compile\ndef f(x):\n    return x\ng = torch.compile(f)",
        "def f(x):\n    return x\nrun = lambda x: f(x)\ng = f",
        "import torch\nclass F(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return x\nf = F.apply",
        "def f():\n    model = Model()\n    if __name__ == '__main__':\n        pass",
        "NAME = __name__\nif NAME == 'other':\n    pass",
    ],
)
def test_definitions_are_not_refused(text: str) -> None:
    refuse_unless_definitions(parse(text))


@pytest.mark.parametrize(
    "condition",
    ['__name__ == "__main__"', '"__main__" == __name__', '__name__ == "__main__" and True'],
)
def test_a_main_block_is_refused(condition: str) -> None:
    with pytest.raises(Refusal, match="Remove test code") as caught:
        refuse_unless_definitions(parse(f"import torch\nif {condition}:\n    test()\n"))
    assert "line 2" in caught.value.message
    assert caught.value.hint


def test_a_relative_import_is_refused() -> None:
    with pytest.raises(Refusal, match="No relative imports: use absolute imports only, line 1"):
        refuse_unless_definitions(parse("from .utils import helper"))


@pytest.mark.parametrize(
    "text",
    [
        "def broken(:",
        "(" * 5000 + ")" * 5000,
        "a" + ".a" * 100_000,
        "x = " + "-" * 100_000 + "1",
    ],
)
def test_what_does_not_parse_is_left_to_execution(text: str) -> None:
    assert PythonSource.parse(text) is None


def test_deep_but_valid_nesting_is_read() -> None:
    source = parse("x = a" + ".b" * 900 + "\n" + "y = " + "not " * 900 + "1\n")
    refuse_unless_definitions(source)


def test_only_strings_that_are_used_count() -> None:
    source = parse(
        '''
        """A module docstring about __global__ functions."""
        # __global__ in a comment
        def f():
            """So does __global__ here."""
            return "plain"
        code = "__global__ void k() {}"
        '''
    )
    assert [node.lineno for node in source.strings_with("__global__")] == [7]


def test_extension_builds_are_found_under_any_name() -> None:
    source = parse(
        """
        import json
        import torch.utils.cpp_extension
        import torch.utils.cpp_extension as ce
        from torch.utils.cpp_extension import load_inline as li, load
        li(name="a")
        torch.utils.cpp_extension.load_inline(name="b")
        ce.load(name="c", sources=[])
        load(name="d", sources=[])
        torch.load("file")
        json.load(stream)
        """
    )
    assert [node.lineno for node in source.extension_builds] == [6, 7, 8, 9]


def test_imports_are_found_wherever_they_stand() -> None:
    source = parse("try:\n    import triton.language as tl\nexcept ImportError:\n    tl = None")
    assert set(source.imports) == {"triton"}


def test_a_launch_is_found_outside_jit_functions_only() -> None:
    inside = "import triton\n@triton.jit\ndef helper(x):\n    pass\n"
    assert parse(inside + "@triton.jit\ndef k(x):\n    helper[0](x)").launch() is None
    assert parse(inside + "def grid(n):\n    return TABLE[n](3)").launch() is None
    launch = parse(inside + "def run(x):\n    helper[(1,)](x)").launch()
    assert launch is not None
    assert launch.lineno == 6
    wrapped = parse("import triton\ndef f(x):\n    pass\nk = triton.jit(f)\ng = lambda: k[1](3)")
    assert wrapped.launch() is not None


@contextlib.contextmanager
def collecting_all_the_time() -> Iterator[None]:
    """Has Python change threads wherever it may collect garbage, as in the midst of a tree."""

    def change_threads(phase: str, info: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(change_threads)
    gc.set_threshold(50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(change_threads)


def parse_below(text: str, frames: int) -> PythonSource | None:
    return parse_below(text, frames - 1) if frames else PythonSource.parse(text)


def test_sources_are_parsed_by_several_threads_at_once() -> None:
    text = "\n".join(
        f"def f{number}(x):\n    return [x, (x + {number}) * 2]" for number in range(40)
    )
    with collecting_all_the_time(), ThreadPoolExecutor(4) as pool:
        # Each from another depth of the stack, as jobs in different phases are.
        parsed = list(pool.map(parse_below, [text] * 16, range(16)))
    assert all(source is not None and len(source.tree.body) == 40 for source in parsed)
