"""Settings come from arguments and from the environment, and say what is wrong with them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from kerneljudge.service import Settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICES", "CACHE_DIR", "PORT", "GPU_TYPE", "POD_NAME", "POD_IP"):
        monkeypatch.delenv(f"KERNELJUDGE_{name}", raising=False)
        monkeypatch.delenv(name, raising=False)


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
