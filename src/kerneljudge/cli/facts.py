"""What this machine has, for `kerneljudge doctor`, which runs this module in another process.

`python -m kerneljudge.cli.facts libraries` prints facts as JSON on its last line. So the command
itself neither imports PyTorch nor opens a device, and outlives a library that crashes.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

_LIBRARIES = ("torch", "triton", "cupy", "numpy")


def _libraries() -> dict[str, dict[str, str | None]]:
    """For each library, its version, or why it cannot be imported."""
    found: dict[str, dict[str, str | None]] = {}
    for name in _LIBRARIES:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken library may raise anything
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            reason = "not installed" if missing else told
            found[name] = {"version": None, "reason": reason}
        else:
            found[name] = {"version": str(module.__version__), "reason": None}
    return found


def _devices() -> dict[str, Any]:
    """The GPUs that PyTorch can use and how tensors reach them, or why there is none."""
    import torch

    from kerneljudge.judging.tensors import choose_transport

    gpus: list[dict[str, Any]] = []
    facts = {"gpus": gpus, "cuda": torch.version.cuda, "reason": None}
    if torch.version.cuda is None:
        return {**facts, "reason": "this PyTorch is built without CUDA"}
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return {**facts, "reason": str(error).partition("\n")[0]}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        transport, reason = choose_transport(torch.device("cuda", index))
        gpus.append(
            {
                "name": properties.name,
                "architecture": f"sm_{properties.major}{properties.minor}",
                "memory_bytes": properties.total_memory,
                "transport": transport,
                "transport_reason": reason,
            }
        )
    return facts


def _sandbox() -> list[dict[str, Any]]:
    """The layers of confinement that a runner would have here."""
    from kerneljudge.runtime.sandbox import probe

    return [layer.model_dump() for layer in probe()]


def _toolchain() -> dict[str, Any]:
    """What can be compiled here, and what each way of compiling lacks."""
    from kerneljudge.building import Toolchain

    toolchain = Toolchain.detect()
    return {
        "capabilities": [asdict(capability) for capability in toolchain.capabilities()],
        "missing": {
            "nvrtc": toolchain.missing_for_nvrtc(),
            "nvcc": toolchain.missing_for_nvcc(),
            "fast": toolchain.missing_for_fast(),
            "extension": toolchain.missing_for_extension(),
        },
    }


_TOPICS: dict[str, Callable[[], Any]] = {
    "libraries": _libraries,
    "devices": _devices,
    "sandbox": _sandbox,
    "toolchain": _toolchain,
}

if __name__ == "__main__":
    print(json.dumps(_TOPICS[sys.argv[1]]()))
