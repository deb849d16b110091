"""`kerneljudge config`, and every setting as an option."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from kerneljudge.cli import app
from kerneljudge.cli.console import Usage
from kerneljudge.cli.settings import read_options, read_settings
from kerneljudge.service.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]

# A value of each setting, as text, that is not its default.
OTHERS = {
    "host": "10.0.0.1",
    "log_level": "debug",
    "log_format": "json",
    "trace_endpoint": "http://localhost:4318",
    "devices": "cpu",
    "max_timeout": "60",
    "max_trials": "50",
    "runner_memory_bytes": str(2**30),
}


def config(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", *arguments])


def other(name: str) -> str:
    """A value that is not the setting's default."""
    if name in OTHERS:
        return OTHERS[name]
    default = Settings.model_fields[name].default
    if isinstance(default, int | float):
        return str(int(default) + 1)
    numbers = ("builders", "max_unfinished_per_key")
    return "7" if name in numbers else "/some/path"


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"config"}))
def test_every_setting_is_an_option_a_variable_and_a_key_of_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = {"tls_key": "tls_certificate", "tls_certificate": "tls_key"}
    both = {each: other(name) for each in (name, rest.get(name)) if each}
    by_option = read_options(
        [f"--{each.replace('_', '-')}={value}" for each, value in both.items()]
    )
    expected = getattr(read_settings(by_option), name)
    assert expected != Settings.model_fields[name].get_default(call_default_factory=True)
    path = tmp_path / "kerneljudge.toml"
    text = other(name)
    path.write_text("".join(f"{each} = {json.dumps(value)}\n" for each, value in both.items()))
    assert getattr(read_settings({"config": path}), name) == expected
    for each in both:
        monkeypatch.setenv(f"KERNELJUDGE_{each.upper()}", text)
    assert getattr(read_settings({}), name) == expected


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max-queud", "1"], "of which the nearest is --max-queued"),
        (["max_queued=1"], "is no option"),
        (["--port"], "--port takes a value"),
        (["--port", "--host"], "--port takes a value"),
    ],
)
def test_an_option_that_is_none_is_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(Usage, match=complaint):
        read_options(arguments)


def test_what_is_wrong_is_said_with_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kerneljudge.toml"
    path.write_text('standby = 1000\ndevices = "gpu"\n')
    monkeypatch.setenv("KERNELJUDGE_MAX_QUEUED", "0")
    refused = config("--config", str(path), "--port", "eighty")
    assert refused.exit_code == 2
    for part in (
        "port (from --port): ",
        "max_queued (from KERNELJUDGE_MAX_QUEUED): ",
        f"standby (from {path}): ",
        "'gpu' is no device",
    ):
        assert part in refused.stderr.replace("\n", "")


def test_the_configuration_has_every_setting_and_where_it_comes_from() -> None:
    told = json.loads(config("--json", "--max-queued", "5").stdout)
    assert list(told) == list(Settings.model_fields)
    assert told["max_queued"] == {"value": 5, "origin": "--max-queued"}
    assert told["max_batch"] == {"value": 1000, "origin": "default"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://judge:s3cret@db:5432/jobs", "postgresql://judge:***@db:5432/jobs"),
        ("postgresql://judge:s3c@cret@db/jobs", "postgresql://judge:***@db/jobs"),
        ("postgresql:///jobs?host=db&password=s3cret", "postgresql:///jobs?***"),
        ("postgresql://judge:s3?cret@db/jobs", "postgresql://***"),
        ("postgresql:///jobs?password=s3@cret", "postgresql://***"),
        ("postgresql://judge@db/jobs", "postgresql://judge@db/jobs"),
        ("sqlite:////var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
    ],
)
def test_the_databases_password_is_not_shown(url: str, shown: str) -> None:
    told = config("--json", "--database", url)
    assert json.loads(told.stdout)["database"]["value"] == shown
    assert "cret" not in told.stdout + config("--database", url).stdout


def reference() -> ModuleType:
    """The script that writes docs/configuration.md."""
    path = ROOT / "scripts" / "configuration_reference.py"
    spec = importlib.util.spec_from_file_location("configuration_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_its_script_writes() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference().page(), "run python scripts/configuration_reference.py"


def test_the_reference_has_every_setting() -> None:
    page = reference().page()
    assert all(f"### {name}\n" in page for name in Settings.model_fields)
