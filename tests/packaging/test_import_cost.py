"""The client's side of the package needs none of what only the server needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

SERVER_ONLY = [
    "cuda",
    "cupy",
    "fastapi",
    "numpy",
    "pydantic_settings",
    "starlette",
    "torch",
    "tree_sitter",
    "triton",
    "uvicorn",
]

# Makes an import of the server's libraries fail, as it would where they are not installed.
WITHOUT_SERVER_EXTRA = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import kerneljudge",
        "import kerneljudge.contract",
        "import kerneljudge.schema",
        "import kerneljudge.client",
        "import kerneljudge.cli",
        "import kernel_eval_client",
        "from kerneljudge import *",
    ],
)
def test_importing_loads_no_library_of_the_server(statement):
    done = run(
        f"import json, sys\nbefore = set(sys.modules)\n{statement}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert done.returncode == 0, done.stderr
    assert not set(json.loads(done.stdout)) & set(SERVER_ONLY)


def test_client_side_works_where_only_the_core_dependencies_are_installed():
    done = run(
        WITHOUT_SERVER_EXTRA.format(blocked=SERVER_ONLY)
        + """
from kerneljudge import IOContractBuilder, KernelCode, KernelJudgeClient, create_randn_spec

contract = (
    IOContractBuilder()
    .add_input_tensor("x", create_randn_spec([16], seed=1))
    .add_output_tensor("y", shape=[16], dtype="float32")
    .set_grid(1)
    .set_block(16)
    .build()
)
kernel = KernelCode(source_code="__global__ void k() {}", kernel_type="cuda", io=contract)
assert KernelCode.model_validate_json(kernel.model_dump_json()) == kernel
KernelJudgeClient("http://localhost:1").close()
"""
    )
    assert done.returncode == 0, done.stderr


def test_the_command_explains_itself_where_only_the_core_dependencies_are_installed():
    done = run(
        WITHOUT_SERVER_EXTRA.format(blocked=SERVER_ONLY)
        + "from kerneljudge.cli import app\napp(['--help'])"
    )
    assert done.returncode == 0, done.stderr
    for command in ("serve", "evaluate", "compare", "doctor", "demo"):
        assert command in done.stdout


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    done = run("import kerneljudge\nkerneljudge.no_such_name")
    assert done.returncode == 1
    assert "module 'kerneljudge' has no attribute 'no_such_name'" in done.stderr
