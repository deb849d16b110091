"""The memory of this machine's GPUs, as nvidia-smi tells it: the server opens no device."""

from __future__ import annotations

import subprocess

from kerneljudge.api.mcp.results import GpuMemory
from kerneljudge.service.gpus import visible_gpus

__all__ = ["gpu_memory"]

_QUERY = "uuid,memory.used,memory.reserved,memory.total"
_SECONDS = 10


def gpu_memory() -> dict[int, GpuMemory] | str:
    """By N of `cuda:N`; or, where nvidia-smi does not answer, why not."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except FileNotFoundError:
        return "this machine has no nvidia-smi"
    except subprocess.TimeoutExpired:
        return f"nvidia-smi gave no answer within {_SECONDS} s"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"nvidia-smi failed: {error}"
    told = {}
    for line in done.stdout.splitlines():
        uuid, *figures = (field.strip() for field in line.split(","))
        if len(figures) == 3:
            told[uuid] = GpuMemory(*(_number(figure) for figure in figures))
    return {index: told[uuid] for index, uuid in enumerate(visible_gpus()) if uuid in told}


def _number(text: str) -> float | None:
    # A figure that a GPU does not have reads `[N/A]` or `[Not Supported]`.
    try:
        return float(text)
    except ValueError:
        return None
