"""Shared by the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# `scripted`, the evaluator that answers as it is told, serves several folders.
sys.path.append(str(Path(__file__).parents[1] / "service"))


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"
