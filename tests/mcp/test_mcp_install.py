"""What `kerneljudge mcp` needs: of a running server, the MCP SDK and nothing of the judge."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

WITHOUT = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""


def run(blocked, program):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked) + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_asking_a_running_server_needs_no_library_of_the_judge():
    judge = ["alembic", "cuda", "fastapi", "numpy", "pydantic_settings", "sqlalchemy", "torch"]
    done = run(judge, "import kerneljudge.cli.mcp_stdio")
    assert done.returncode == 0, done.stderr


def test_without_the_sdk_the_command_says_what_to_install():
    done = run(["mcp"], "from kerneljudge.cli import app\napp(['mcp'])")
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert not done.stdout
