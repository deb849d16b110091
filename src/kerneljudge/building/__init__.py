"""Compilation: device code to cubins, wrappers to torch extensions, and the cache of both.

A builder compiles and never executes what it compiles. `build` is what it runs, in a sandbox;
trusted processes use the rest.
"""

from __future__ import annotations

import time
from pathlib import Path

from kerneljudge.building.cache import BuildCache, cache_key
from kerneljudge.building.eviction import Evicted, evict, mark_used
from kerneljudge.building.host_header import prepare_header
from kerneljudge.building.requests import BuildRequest, BuildResult, DeviceBuild, ExtensionBuild
from kerneljudge.building.toolchain import Capability, Toolchain

__all__ = [
    "BuildCache",
    "BuildRequest",
    "BuildResult",
    "Capability",
    "DeviceBuild",
    "Evicted",
    "ExtensionBuild",
    "Toolchain",
    "build",
    "cache_key",
    "evict",
    "mark_used",
    "prepare_header",
]


def build(
    request: BuildRequest, *, scratch: Path, toolchain: Toolchain, include_cache: Path
) -> BuildResult:
    """Builds what is asked for, in `scratch`, where the artefacts are when it returns.

    `include_cache` is where `prepare_header` has put the precompiled header; it is only read.
    Never raises for the submitter's mistakes: the result says what is wrong.
    """
    from kerneljudge.building.device import build_device
    from kerneljudge.building.extension import build_extension

    started = time.monotonic()
    if isinstance(request, DeviceBuild):
        result = build_device(request, scratch=scratch, toolchain=toolchain)
    else:
        result = build_extension(
            request, scratch=scratch, toolchain=toolchain, include_cache=include_cache
        )
    return result.model_copy(update={"seconds": time.monotonic() - started})
