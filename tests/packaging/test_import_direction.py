"""Imports between the packages point one way, and every third-party import is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kerneljudge"

# Lower layers first; a package may import itself and those before it.
LAYERS = [
    "contract",
    "schema",
    "building",
    "languages",
    "timing",
    "runtime",
    "judging",
    "service",
    "api",
    "client",
    "cli",
]

# What may be imported by packages that promise to need less than their layer would allow: the
# client reads the responses that the API writes.
NARROWER = {"client": {"contract", "schema", "api", "client"}}

# What distributions import as, where that is not their own name.
IMPORTED_AS = {
    "cuda-bindings": {"cuda"},
    "cuda-toolkit": set(),
    "cupy-cuda13x": {"cupy"},
    "opentelemetry-exporter-otlp-proto-http": {"opentelemetry"},
    "opentelemetry-sdk": {"opentelemetry"},
    "prometheus-client": {"prometheus_client"},
    "pydantic": {"pydantic", "pydantic_core"},
    "pydantic-settings": {"pydantic_settings"},
    "tree-sitter": {"tree_sitter"},
    "tree-sitter-cuda": {"tree_sitter_cuda"},
}

# What the package itself need not import: submitted kernels do, and Triton's interpreter.
FOR_SUBMISSIONS = {"cupy", "numpy"}


def modules() -> Iterator[tuple[Path, str]]:
    """Every module of the package, with its dotted name."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, wherever in the module it stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            if base == "kerneljudge":
                yield from ((node.lineno, f"kerneljudge.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def requirements(group: list[str]) -> set[str]:
    """The import names that a list of requirements brings."""
    names = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in group]
    return {imported for name in names for imported in IMPORTED_AS.get(name, {name})}


def test_every_folder_of_the_package_has_a_layer():
    folders = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert folders <= set(LAYERS)


def test_packages_import_only_their_own_and_lower_layers():
    violations = []
    for path, name in modules():
        here = name.split(".")[1] if "." in name else None
        if here not in LAYERS:
            continue  # the package's own root re-exports from anywhere, lazily
        allowed = NARROWER.get(here, set(LAYERS[: LAYERS.index(here) + 1]))
        for line, target in imports(path, name):
            there = target.split(".")[1] if target.startswith("kerneljudge.") else None
            if there in LAYERS and there not in allowed:
                violations.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    assert not violations, "\n".join(violations)


def test_every_third_party_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = requirements(project["dependencies"])
    extras = {
        extra: requirements(group) for extra, group in project["optional-dependencies"].items()
    }
    declared = core | extras["server"] | extras["gpu"] | extras["trace"]
    undeclared = []
    for path, name in modules():
        for line, target in imports(path, name):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top in declared | {"kerneljudge"}:
                continue
            undeclared.append(f"{path.relative_to(ROOT)}:{line} imports {top}")
    assert not undeclared, "\n".join(undeclared)


def test_every_declared_dependency_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = requirements([*project["dependencies"], *extras["server"], *extras["gpu"]])
    declared -= FOR_SUBMISSIONS | {"pydantic_core"}
    used = {target.split(".")[0] for path, name in modules() for _, target in imports(path, name)}
    assert declared <= used, f"nothing imports {sorted(declared - used)}"
