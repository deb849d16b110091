"""Literal tensor data: bytes as base64 text, raw or through zlib."""

from __future__ import annotations

import base64
import zlib
from typing import Literal

__all__ = ["Compression", "decode", "encode"]

Compression = Literal["none", "zlib"]


def encode(raw: bytes, compress: Compression = "none") -> str:
    """The bytes as base64 text, deflated first if `compress` is `zlib`."""
    return base64.b64encode(zlib.compress(raw) if compress == "zlib" else raw).decode("ascii")


def decode(data_b64: str, compress: Compression, nbytes: int) -> bytes:
    """The `nbytes` bytes that `encode` was given.

    Never holds more than `nbytes` + 1 inflated bytes, however far the data would inflate.
    Raises ValueError where the text is not base64, the stream is not zlib, or the length differs.
    """
    if compress == "none" and len(data_b64) != (expected := 4 * -(-nbytes // 3)):
        raise ValueError(
            f"data_b64 has {len(data_b64)} characters, but the {nbytes} bytes of shape and dtype "
            f"make {expected}: the data must be the whole tensor, row-major, without line breaks"
        )
    packed = _from_base64(data_b64)
    raw = packed if compress == "none" else _inflate(packed, nbytes)
    if len(raw) != nbytes:
        raise ValueError(
            f"data_b64 holds {len(raw)} bytes, but shape and dtype make {nbytes}: "
            "the data must be the whole tensor, row-major"
        )
    return raw


def _from_base64(text: str) -> bytes:
    try:
        packed = base64.b64decode(text, validate=True)
        # The decoder lets needless padding pass.
        problem = None if base64.b64encode(packed) == text.encode() else "misplaced padding"
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise ValueError(
            f"data_b64 is not base64 ({problem}): use the standard alphabet, with padding and "
            "without line breaks"
        )
    return packed


def _inflate(packed: bytes, nbytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, nbytes + 1)
    except zlib.error as error:
        raise ValueError(
            f"data_b64 is not a zlib stream ({error}): compress with zlib, not gzip or raw "
            "deflate, or say compress = none"
        ) from None
    if len(raw) > nbytes:
        raise ValueError(
            f"data_b64 inflates to more than the {nbytes} bytes of shape and dtype: "
            "the data must be exactly the tensor"
        )
    if not stream.eof:
        raise ValueError("data_b64 is a zlib stream that is cut off: send all of it")
    if stream.unused_data:
        raise ValueError(
            f"data_b64 has {len(stream.unused_data)} bytes after the end of its zlib stream: "
            "send the stream alone"
        )
    return raw
