"""How requests and reports are written into columns, and read back."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from kerneljudge.schema import JobReport, JobRequest, KernelType, Side
from kerneljudge.service.records import SubmittedKernel

__all__ = [
    "digest_request",
    "pack",
    "pack_kernels",
    "unpack_kernels",
    "unpack_report",
    "unpack_request",
]

# Sources shrink to a third at this level already, in a tenth of the time of the default one.
_LEVEL = 1

_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


def pack(model: BaseModel) -> bytes:
    """A model as deflated JSON, which `unpack_request` or `unpack_report` reads back exactly."""
    return zlib.compress(_json(model.model_dump()).encode("ascii"), _LEVEL)


def unpack_request(packed: bytes) -> JobRequest:
    """The request that was packed."""
    return _REQUEST.validate_python(_unpacked(packed))


def unpack_report(packed: bytes) -> JobReport:
    """The report that was packed."""
    return JobReport.model_validate(_unpacked(packed))


def digest_request(request: JobRequest) -> str:
    """SHA-256, in hexadecimal, of what the request says, however it was written: 120 is 120.0,
    and a default is the same whether it was written out or not."""
    canonical = _json(_canonical(request.model_dump()), sort_keys=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def pack_kernels(kernels: Mapping[Side, SubmittedKernel]) -> str:
    """What is repeated of the kernels, as JSON."""
    return _json({side: [kernel.kernel_type, kernel.metadata] for side, kernel in kernels.items()})


def unpack_kernels(text: str) -> dict[Side, SubmittedKernel]:
    """What `pack_kernels` was given."""
    return {
        side: SubmittedKernel(KernelType(kernel_type), metadata)
        for side, (kernel_type, metadata) in json.loads(text).items()
    }


def _json(value: Any, *, sort_keys: bool = False) -> str:
    # The standard library's writer, since pydantic's turns NaN and infinities into null and
    # refuses lone surrogates; a user's metadata may have both. ASCII holds them as escapes.
    return json.dumps(value, separators=(",", ":"), sort_keys=sort_keys)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unpacked(packed: bytes) -> Any:
    return json.loads(zlib.decompress(packed))
