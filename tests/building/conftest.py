"""A machine's toolchain, and its precompiled header, which is kept between sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kerneljudge.building import BuildResult, ExtensionBuild, Toolchain, build, prepare_header

BuildExtension = Callable[..., BuildResult]


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """What there is here."""
    return Toolchain.detect()


@pytest.fixture(scope="session")
def include_cache(toolchain: Toolchain, pytestconfig: pytest.Config) -> Path:
    """Where the precompiled header is; the folder of test servers as well."""
    cache = pytestconfig.cache
    assert cache is not None
    folder = cache.mkdir("kerneljudge-builds") / "include"
    prepare_header(toolchain, folder)
    return folder


@pytest.fixture
def build_extension(toolchain: Toolchain, include_cache: Path, tmp_path: Path) -> BuildExtension:
    """Builds an extension in a folder of its own."""
    count = 0

    def run(request: ExtensionBuild | None = None, **fields: Any) -> BuildResult:
        nonlocal count
        count += 1
        scratch = tmp_path / f"build{count}"
        scratch.mkdir()
        use = fields.pop("toolchain", toolchain)
        if request is None:
            request = ExtensionBuild.model_validate(
                {"name": "extension", "architecture": "sm_90"} | fields
            )
        return build(request, scratch=scratch, toolchain=use, include_cache=include_cache)

    return run
