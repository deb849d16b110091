"""What is in the wheel that users install."""

from __future__ import annotations

import email.parser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kerneljudge

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built by the backend that is installed."""
    pytest.importorskip("hatchling", reason="needs the extra dev, which brings hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("kerneljudge-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_every_file_of_the_packages(wheel):
    source = ROOT / "src"
    files = {
        path.relative_to(source)
        for package in ("kerneljudge", "kernel_eval_client")
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    # What tools leave behind is no part of the package.
    files = {
        path.as_posix()
        for path in files
        if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files
    assert "kerneljudge/py.typed" in packed


def test_wheel_brings_a_demo_kernel_of_every_type(wheel):
    demo = "\n".join(
        wheel.read(name).decode()
        for name in wheel.namelist()
        if "demo" in name and name.endswith((".py", ".cu"))
    )
    for mark in ("@triton.jit", "__global__", "load_inline", "class Model(", "def run("):
        assert mark in demo


def test_wheel_names_version_licence_command_and_python(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.parser.Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "kerneljudge"
    assert metadata["Version"] == kerneljudge.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = {"server", "postgres", "trace", "gpu", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert "kerneljudge = kerneljudge.cli:app" in wheel.read(f"{info}/entry_points.txt").decode()
    licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert "Copyright 2026 The KernelJudge authors" in licence


def test_installing_without_extras_needs_no_torch(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.parser.Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
    core = {
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        for requirement in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    }
    assert core == {"httpx", "pydantic", "rich", "typer"}
