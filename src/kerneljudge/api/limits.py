"""The bounds that a server sets to one request, beyond what every request must keep to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from kerneljudge.schema import (
    Closed,
    CompareRequest,
    EvaluateRequest,
    KernelCode,
    LegacyCompareRequest,
)
from kerneljudge.service import Settings

__all__ = ["AnyRequest", "Breach", "breaches", "fitted"]

AnyRequest = EvaluateRequest | CompareRequest | LegacyCompareRequest
"""What a body can be."""

_Request = TypeVar("_Request", bound=Closed)


@dataclass(frozen=True)
class Breach:
    """One bound that a request does not keep to."""

    path: tuple[str | int, ...]
    """The field, from the request on."""
    message: str
    """What it is, what it may be, and which setting says so."""


def fitted(request: _Request, settings: Settings) -> _Request:
    """The request with what it leaves to the server within the server's bounds."""
    most = {"num_trials": settings.max_trials, "timeout": settings.max_timeout}
    lowered = {
        name: bound
        for name, bound in most.items()
        if name not in request.model_fields_set and getattr(request, name) > bound
    }
    return request.model_copy(update=lowered) if lowered else request


def breaches(request: AnyRequest, settings: Settings) -> Iterator[Breach]:
    """Every bound that the request does not keep to."""
    if request.num_trials > (most := settings.max_trials):
        yield _breach(("num_trials",), f"is {request.num_trials}", str(most), "max_trials")
    if request.timeout > (longest := settings.max_timeout):
        yield _breach(("timeout",), f"is {request.timeout:g} s", f"{longest:g} s", "max_timeout")
    if isinstance(request, LegacyCompareRequest):
        yield from _source(("ref_code",), request.ref_code, settings)
        yield from _source(("custom_code",), request.custom_code, settings)
    elif isinstance(request, CompareRequest):
        yield from _kernel("ref_kernel", request.ref_kernel, settings)
        yield from _kernel("custom_kernel", request.custom_kernel, settings)
    else:
        yield from _kernel("kernel", request.kernel, settings)


def _kernel(name: str, kernel: KernelCode, settings: Settings) -> Iterator[Breach]:
    yield from _source((name, "source_code"), kernel.source_code, settings)
    for position, arg in enumerate(kernel.io.args if kernel.io is not None else ()):
        spec = arg.tensor_spec
        if spec is not None and spec.nbytes > (most := settings.max_tensor_bytes):
            path = (name, "io", "args", position, "tensor_spec")
            yield _breach(path, f"takes {spec.nbytes} bytes", f"{most} bytes", "max_tensor_bytes")


def _source(path: tuple[str, ...], source: str, settings: Settings) -> Iterator[Breach]:
    most = settings.max_source_bytes
    # UTF-8 has one to four bytes a character: counted only where it matters.
    if 4 * len(source) > most and (size := len(source.encode(errors="surrogatepass"))) > most:
        yield _breach(path, f"has {size} bytes", f"{most} bytes", "max_source_bytes")


def _breach(path: tuple[str | int, ...], what: str, most: str, setting: str) -> Breach:
    return Breach(
        path,
        f"{path[-1]} {what}, and this server takes at most {most} (KERNELJUDGE_{setting.upper()})",
    )
