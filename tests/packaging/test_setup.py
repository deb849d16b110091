"""Set-up says what it needs, and can be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def set_up(venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(ROOT / "scripts" / "setup.sh"), str(venv)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_interpreter_that_is_too_old_is_refused(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = set_up(tmp_path / "venv", PATH=os.environ["PATH"], PYTHON=str(old))
    assert done.returncode == 1
    assert f"PYTHON={old} is not a Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_without_a_compiler_and_without_apt_it_says_what_to_install(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("dirname", "grep", "rm"):
        path = shutil.which(tool)
        assert path is not None
        (tools / tool).symlink_to(path)
    done = set_up(tmp_path / "venv", PATH=str(tools), PYTHON=sys.executable)
    assert done.returncode == 1
    assert "KernelJudge needs" in done.stderr
    assert "sudo apt-get install" in done.stderr
    assert "g++" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_no_venv_uses_the_given_interpreter_without_set_up():
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "NO_VENV=1", "PYTHON=/opt/python", "demo", "test"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # without the flags of the make that runs the tests
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    commands = done.stdout.splitlines()
    assert len(commands) == 2
    assert commands[0].startswith("/opt/python -m kerneljudge demo --output out/")
    assert commands[1].startswith("/opt/python -m pytest")
