"""What the tests of deploy/ compare with: the routes, settings and commands that there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from scripted import ScriptedEvaluator
from typer.main import get_command

from kerneljudge.api.app import create_app
from kerneljudge.cli import app as command_line
from kerneljudge.service import JobService, Settings, SqlStore
from kerneljudge.service.settings import environment_names


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def paths() -> set[str]:
    """The paths that the application serves."""
    settings = Settings()
    store = asyncio.run(SqlStore.open("sqlite://"))
    app = create_app(JobService(ScriptedEvaluator(), store=store, settings=settings), settings)
    asyncio.run(store.close())
    return {path for route in app.routes if (path := getattr(route, "path", None))}


@pytest.fixture(scope="session")
def commands() -> set[str]:
    """The commands that `kerneljudge` has."""
    return set(get_command(command_line).commands)  # type: ignore[attr-defined]


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], Settings]:
    """The settings that an environment makes, all of whose own variables must be settings."""

    def settings(environment: Mapping[str, str]) -> Settings:
        names = {name for field in Settings.model_fields for name in environment_names(field)}
        own = {name for name in environment if name.startswith("KERNELJUDGE_")}
        assert own <= names, f"{sorted(own - names)} set nothing"
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name in own:
            monkeypatch.setenv(name, environment[name])
        return Settings()

    return settings
