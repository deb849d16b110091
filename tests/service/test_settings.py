"""Settings come from arguments, the environment and a file, and say what is wrong with them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from kerneljudge.service.settings import Settings, SettingsError, environment_names, origins

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        for name in environment_names(field):
            monkeypatch.delenv(name, raising=False)


def toml(folder: Path, text: str) -> Path:
    path = folder / "kerneljudge.toml"
    path.write_text(text)
    return path


def test_defaults_listen_on_loopback_only() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.devices == ("auto",)
    assert settings.pod_name == socket.gethostname()
    assert settings.pod_ip == "127.0.0.1"


def test_the_environment_sets_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELJUDGE_PORT", "9001")
    monkeypatch.setenv("KERNELJUDGE_DEVICES", "cuda:0, cuda:2")
    assert Settings().port == 9001
    assert Settings().devices == ("cuda:0", "cuda:2")
    assert Settings(port=0).port == 0


def test_a_log_level_may_be_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELJUDGE_LOG_LEVEL", "WARNING")
    assert Settings().log_level == "warning"


def test_the_names_that_clusters_use_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_TYPE", "H200")
    monkeypatch.setenv("POD_NAME", "judge-0")
    monkeypatch.setenv("POD_IP", "10.0.0.7")
    settings = Settings()
    assert (settings.gpu_type, settings.pod_name, settings.pod_ip) == (
        "H200",
        "judge-0",
        "10.0.0.7",
    )
    assert Settings(pod_name="mine").pod_name == "mine"


def test_the_cache_of_a_user_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().cache_dir == tmp_path / "kerneljudge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().cache_dir == tmp_path / ".cache" / "kerneljudge"


def test_the_cache_of_root_is_where_other_users_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert Settings().cache_dir == Path("/var/cache/kerneljudge")


@pytest.mark.parametrize(
    ("devices", "complaint"),
    [
        ("gpu", "'gpu' is no device"),
        ("auto,cpu", "'auto' is no device"),
        ("cuda", "'cuda' is no device"),
        ("", "devices is empty"),
        ("cpu,cpu", "names one twice"),
    ],
)
def test_impossible_devices_are_named(devices: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings.model_validate({"devices": devices})


def test_every_setting_is_documented() -> None:
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert not undocumented


def test_an_argument_beats_the_environment_that_the_file_and_that_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = toml(tmp_path, "standby = 3\nport = 9001\nmax_queued = 5\n")
    monkeypatch.setenv("KERNELJUDGE_CONFIG", str(path))
    monkeypatch.setenv("KERNELJUDGE_STANDBY", "2")
    monkeypatch.setenv("KERNELJUDGE_PORT", "9002")
    given = {"port": "9003"}
    settings = Settings(**given)
    assert settings.port == 9003
    assert settings.standby == 2
    assert settings.max_queued == 5
    assert settings.max_batch == 1000
    made = origins(given)
    assert made["port"] == "--port"
    assert made["standby"] == "KERNELJUDGE_STANDBY"
    assert made["max_queued"] == str(path)
    assert made["max_batch"] == "default"


def test_the_file_that_an_argument_names_is_read_instead_of_the_environments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KERNELJUDGE_CONFIG", str(tmp_path / "another.toml"))
    path = toml(tmp_path, 'devices = ["cuda:0", "cuda:1"]\ncache_dir = "/builds"\n')
    settings = Settings(config=path)
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.cache_dir == Path("/builds")


@pytest.mark.parametrize("name", ["GPU_TYPE", "KERNELJUDGE_GPU_TYPE"])
def test_the_environment_beats_the_file_under_each_of_its_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "h100")
    path = toml(tmp_path, 'gpu_type = "a100"\npod_name = "judge-7"\n')
    settings = Settings(config=path)
    assert settings.gpu_type == "h100"
    assert settings.pod_name == "judge-7"
    assert origins({"config": path})["gpu_type"] == name


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELJUDGE_DATABASE", "")
    monkeypatch.setenv("KERNELJUDGE_PORT", "")
    assert Settings().database is None
    assert Settings().port == 8000
    assert origins({})["port"] == "default"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot = 1", r"`prot`, of which the nearest is `port`"),
        ("max-queued = 1", r"`max-queued`, of which the nearest is `max_queued`"),
        ("[server]\nport = 1", r"`server`"),
        ('config = "another.toml"', r"sets what there is not: `config`"),
        ("port = ", r"is no TOML"),
    ],
)
def test_a_file_with_unknown_keys_or_bad_syntax_is_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Settings(config=toml(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml: No such file"):
        Settings(config=tmp_path / "nothing.toml")


def test_a_value_of_the_file_is_checked_as_any_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="max_timeout"):
        Settings(config=toml(tmp_path, "max_timeout = 1e9"))


def test_half_a_certificate_is_refused() -> None:
    with pytest.raises(ValidationError, match="both tls_certificate and tls_key"):
        Settings(tls_key=Path("key.pem"))
