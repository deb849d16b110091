"""compose.yaml fits the image, the settings and itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kerneljudge.service import Settings

pytestmark = pytest.mark.unit

Services = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def compose(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "deploy" / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def server(compose: dict[str, Any]) -> dict[str, Any]:
    service: dict[str, Any] = compose["services"]["server"]
    return service


@pytest.fixture
def settings(server: dict[str, Any], settings_of: Callable[..., Settings]) -> Settings:
    """The settings that the server gets, with `secret` for what is interpolated."""
    return settings_of(
        {
            name: re.sub(r"\$\{[^}]*\}", "secret", value)
            for name, value in server["environment"].items()
        }
    )


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_the_image_is_built_from_the_repository(server: dict[str, Any], root: Path) -> None:
    context = (root / "deploy" / server["build"]["context"]).resolve()
    assert context == root
    assert (context / server["build"]["dockerfile"]).is_file()


def test_the_port_that_is_published_is_the_servers(
    server: dict[str, Any], settings: Settings
) -> None:
    (published,) = server["ports"]
    address, _, inside = published.split(":")
    assert address == "127.0.0.1", "what else may reach it is for a person to decide"
    assert int(inside) == settings.port
    assert settings.host == "0.0.0.0"


def test_health_is_asked_where_the_application_answers(
    server: dict[str, Any], settings: Settings, paths: set[str]
) -> None:
    url = server["healthcheck"]["test"][-1]
    path = url.removeprefix(f"http://127.0.0.1:{settings.port}")
    assert path in paths


def test_secrets_and_volumes_are_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for secret in service.get("secrets", []):
            name = secret if isinstance(secret, str) else secret["source"]
            assert "environment" in compose["secrets"][name], (
                "no secret is a file of the repository"
            )
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"]


def test_the_admin_key_is_the_secret_that_is_mounted(
    server: dict[str, Any], settings: Settings
) -> None:
    (secret,) = server["secrets"]
    assert str(settings.admin_key_file) == f"/run/secrets/{secret['source']}"
    assert (secret["uid"], secret["mode"]) == ("10001", 0o400)


def test_the_database_is_the_one_beside_it(compose: dict[str, Any], settings: Settings) -> None:
    database = compose["services"]["database"]
    environment = database["environment"]
    user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    assert settings.database_url == f"postgresql://{user}:secret@database/{name}"
    needs = compose["services"]["server"]["depends_on"]["database"]["condition"]
    assert needs == "service_healthy"
    assert database["healthcheck"]["test"][1] == "pg_isready"
    assert "ports" not in database


def test_every_gpu_is_reserved(server: dict[str, Any]) -> None:
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_it_may_do_no_more_than_it_must(server: dict[str, Any]) -> None:
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert server["read_only"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"} & server.keys()


def test_what_it_writes_to_outlives_a_read_only_image(server: dict[str, Any]) -> None:
    written = {volume.split(":")[1] for volume in server["volumes"]}
    assert written == {"/var/lib/kerneljudge", "/var/cache/kerneljudge"}
    (scratch,) = server["tmpfs"]
    assert scratch.startswith("/tmp:")
    assert "exec" in scratch.partition(":")[2].split(",")


def test_it_is_stopped_no_sooner_than_its_jobs(server: dict[str, Any], settings: Settings) -> None:
    assert seconds(server["stop_grace_period"]) >= settings.shutdown_grace + 15


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(
        ["docker", "compose", "version"], capture_output=True, timeout=60, check=False
    )
    return asked.returncode == 0


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose")
def test_compose_itself_understands_it(root: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    environment.write_text("ADMIN_KEY=a\nPOSTGRES_PASSWORD=b\n")
    subprocess.run(
        [
            *("docker", "compose", "--env-file", environment),
            *("--file", root / "deploy" / "compose.yaml", "config", "--quiet"),
        ],
        check=True,
        timeout=60,
    )
