"""A fleet bounds what its judges' caches take on disk."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from kerneljudge.judging.caches import BUILDS
from kerneljudge.service import Settings
from kerneljudge.service.fleet import Fleet

pytestmark = pytest.mark.e2e


@pytest.mark.anyio
async def test_a_build_that_was_unused_for_long_makes_room(tmp_path: Path) -> None:
    entry = tmp_path / BUILDS / "ab" / ("ab" * 32)
    entry.mkdir(parents=True)
    (entry / "0.cubin").write_bytes(os.urandom(2 * 2**20))
    yesterday = time.time() - 86_400
    os.utime(entry, (yesterday, yesterday))
    fleet = Fleet(
        Settings(
            devices=("cpu",),
            standby=0,
            cache_dir=tmp_path,
            cache_max_bytes=2**20,
            cleanup_interval=0.1,
        )
    )
    await fleet.start()
    try:
        async with asyncio.timeout(60):
            while entry.exists():
                await asyncio.sleep(0.05)
    finally:
        await fleet.stop()
    assert list(tmp_path.glob(".evicted-*")) == []
