"""One job seed, and every other seed derived from it, one way.

A runner is told the seed of what it does now. SHA-256 lies between that and the job's seed, so
that it cannot work out the values of a later trial.
"""

from __future__ import annotations

import hashlib
import secrets

__all__ = ["derive", "draw"]


def draw() -> int:
    """A new job seed, from the system's entropy, in [0, 2**63)."""
    return secrets.randbits(63)


def derive(seed: int, *path: str | int) -> int:
    """The seed for one use, named by `path`, in [0, 2**63)."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
