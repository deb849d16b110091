"""The systemd unit starts a real command, lets the sandbox work, and stops no sooner than jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kerneljudge.service import Settings

pytestmark = pytest.mark.unit

Unit = dict[str, list[str]]


@pytest.fixture(scope="module")
def path(root: Path) -> Path:
    return root / "deploy" / "systemd" / "kerneljudge.service"


@pytest.fixture(scope="module")
def unit(path: Path) -> Unit:
    """Every value of every key; no key of it is in two sections."""
    found: Unit = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def settings(
    unit: Unit, root: Path, tmp_path: Path, settings_of: Callable[..., Settings]
) -> Settings:
    """What the unit's environment and the example of a settings file come to."""
    environment = dict(value.split("=", 1) for value in unit["Environment"])
    assert environment["KERNELJUDGE_CONFIG"].startswith("/etc/kerneljudge/")
    return settings_of(
        environment | {"KERNELJUDGE_CONFIG": str(root / "deploy" / "kerneljudge.toml")}
    )


def test_it_runs_a_real_command(unit: Unit, commands: set[str]) -> None:
    program, command = unit["ExecStart"][0].split()
    assert program == "/opt/kerneljudge/bin/kerneljudge"
    assert command in commands


def test_its_folders_and_its_key_are_those_that_systemd_makes(
    unit: Unit, settings: Settings
) -> None:
    assert unit["DynamicUser"] == ["yes"]
    assert str(settings.state_dir) == f"%S/{unit['StateDirectory'][0]}"
    assert str(settings.cache_dir) == f"%C/{unit['CacheDirectory'][0]}"
    credential = unit["LoadCredential"][0].partition(":")[0]
    assert str(settings.admin_key_file) == f"%d/{credential}"


def test_it_is_stopped_by_one_signal_and_no_sooner_than_its_jobs(
    unit: Unit, settings: Settings
) -> None:
    assert unit["KillMode"] == ["mixed"]
    assert int(unit["TimeoutStopSec"][0]) >= settings.shutdown_grace + 15


def test_a_kernel_that_runs_out_of_memory_does_not_stop_it(unit: Unit) -> None:
    assert unit["OOMPolicy"] == ["continue"]


def test_the_sandbox_may_do_what_it_takes(unit: Unit) -> None:
    assert set(unit["RestrictNamespaces"][0].split()) == {"user", "net"}
    assert "MemoryDenyWriteExecute" not in unit, "compilers at run time write code"
    assert "PrivateDevices" not in unit, "it needs the GPUs"
    assert "PrivateNetwork" not in unit
    (denied,) = unit["SystemCallFilter"]
    assert denied.startswith("~")
    assert not {"@process", "@sandbox", "@resources", "@debug"} & set(denied[1:].split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_understands_it(path: Path, tmp_path: Path) -> None:
    # What it starts need not be installed here.
    text = re.sub(
        r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", path.read_text(), flags=re.M
    )
    copy = tmp_path / path.name
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
