"""The Dockerfile says what can be built and started: checked as text, without an engine."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kerneljudge.service import Settings

pytestmark = pytest.mark.unit

INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


@dataclass
class Stage:
    """One `FROM` and what follows it."""

    image: str
    name: str | None
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of each of these instructions."""
        return [argument for name, argument in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        """The argument of the one that counts."""
        return self.all(instruction)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """What its ENVs set."""
        pairs = [pair for each in self.all("ENV") for pair in shlex.split(each)]
        return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "deploy" / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def stages(text: str) -> list[Stage]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        instruction, _, argument = line.partition(" ")
        assert instruction in INSTRUCTIONS, line
        if instruction == "FROM":
            image, _, name = argument.partition(" AS ")
            found.append(Stage(image, name or None))
        elif found:
            found[-1].steps.append((instruction, argument.strip()))
        else:
            assert instruction == "ARG", "only ARG may stand before the first FROM"
    return found


@pytest.fixture(scope="module")
def final(stages: list[Stage]) -> Stage:
    return stages[-1]


def copied(stage: Stage) -> list[tuple[str | None, list[str]]]:
    """For each COPY, the stage that it copies from, if any, and its sources."""
    found = []
    for argument in stage.all("COPY"):
        words = shlex.split(argument)
        origin = next((word[7:] for word in words if word.startswith("--from=")), None)
        found.append((origin, [word for word in words if not word.startswith("--")][:-1]))
    return found


def test_nothing_is_fetched_but_by_package_managers(stages: list[Stage]) -> None:
    for stage in stages:
        assert not stage.all("ADD")
        for command in stage.all("RUN"):
            assert not re.search(r"\b(curl|wget)\b.*://", command)


def test_what_is_copied_exists_and_is_not_ignored(stages: list[Stage], root: Path) -> None:
    ignored = (root / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*", "nothing is sent to the engine unless it is named"
    sent = {line[1:] for line in rules if line.startswith("!")}
    names = [stage.name for stage in stages]
    needed = set()
    for position, stage in enumerate(stages):
        for origin, sources in copied(stage):
            if origin is not None:
                assert origin in names[:position]
                continue
            assert all((root / source).exists() for source in sources)
            needed |= {source.removeprefix("./") for source in sources}
    assert sent == needed


def test_what_the_package_is_built_from_is_copied(stages: list[Stage], root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    sources = {source for stage in stages for _, each in copied(stage) for source in each}
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= sources


def test_the_extras_that_are_installed_exist(text: str, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = set(re.search(r'"\.\[([\w,]+)\]"', text)[1].split(","))  # type: ignore[index]
    assert {"server", "gpu", "postgres"} <= extras <= set(project["optional-dependencies"])


def test_the_cuda_of_the_image_is_that_of_the_wheels(
    text: str, stages: list[Stage], root: Path
) -> None:
    constraint = re.search(
        r"^cuda-toolkit==(\d+\.\d+)\.", (root / "constraints.txt").read_text(), re.M
    )
    image = re.search(r"^ARG CUDA_IMAGE=nvidia/cuda:(\d+\.\d+)\.\d+-devel-", text, re.M)
    assert constraint is not None
    assert image is not None
    assert image[1] == constraint[1]
    assert {stage.image for stage in stages} == {"${CUDA_IMAGE}"}


def test_the_server_is_no_root_and_its_folders_are_its_own(
    final: Stage, settings_of: Callable[..., Settings]
) -> None:
    user = final.last("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which Kubernetes can check"
    assert final.steps.index(("USER", user)) > final.steps.index(("RUN", final.all("RUN")[-1]))
    made = " ".join(final.all("RUN"))
    assert f"--uid {user.split(':')[0]}" in made
    settings = settings_of(final.environment)
    folders = {str(settings.state_dir), str(settings.cache_dir)}
    assert set(json.loads(final.last("VOLUME"))) == folders
    assert all(folder in made for folder in folders)


def test_it_starts_a_server_that_others_reach(
    final: Stage, commands: set[str], settings_of: Callable[..., Settings]
) -> None:
    entry = json.loads(final.last("ENTRYPOINT")) + json.loads(final.last("CMD"))
    assert entry[:2] == ["tini", "--"], "what the server leaves behind is buried"
    assert "tini" in " ".join(final.all("RUN"))
    assert entry[2] == "kerneljudge"
    assert entry[3] in commands
    settings = settings_of(final.environment)
    assert settings.host == "0.0.0.0"
    assert final.last("EXPOSE") == str(settings.port)
    (venv,) = [sources for origin, sources in copied(final) if origin is not None]
    assert final.environment["PATH"].startswith(f"{venv[0]}/bin:")


def test_its_health_is_asked_where_the_application_answers(final: Stage, paths: set[str]) -> None:
    check = final.last("HEALTHCHECK")
    asked = re.search(r"\$\{KERNELJUDGE_PORT\}(/[\w/]+)", check)
    assert asked is not None
    assert asked[1] == "/health/live"
    assert asked[1] in paths
    assert "curl" in " ".join(final.all("RUN"))
