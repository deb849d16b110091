"""Which devices this machine has, asked without opening any."""

from __future__ import annotations

import logging
import os
import subprocess
from typing import Literal, NamedTuple

from kerneljudge.service.evaluator import EvaluatorUnavailable

__all__ = ["Device", "choose", "visible_gpus"]

_LOG = logging.getLogger(__name__)


class Device(NamedTuple):
    """A device to judge on."""

    name: str
    """`cuda:0`, `cpu`…"""
    kind: Literal["cuda", "cpu"]
    """What it is."""
    gpu: str | None
    """What CUDA_VISIBLE_DEVICES holds for its judge; None for a CPU."""


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would hold for each GPU that this process may use, one a GPU.

    Asked of nvidia-smi, so that the server opens no device; empty where there is no GPU.
    """
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except FileNotFoundError:
        return []
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("nvidia-smi does not tell what GPUs there are, so none is used: %s", error)
        return []
    uuids = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("GPU-")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return uuids
    visible: list[str] = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.isdecimal():
            found = uuids[int(name) : int(name) + 1]
        elif name.startswith("MIG-"):
            found = [name]
        else:
            # CUDA takes the beginning of a UUID for the whole, where it is that of one GPU.
            found = [uuid for uuid in uuids if name.startswith("GPU-") and uuid.startswith(name)]
        if len(found) != 1 or found[0] in visible:
            # As in CUDA: an entry that names no device hides every one after it.
            break
        visible += found
    return visible


def choose(wanted: tuple[str, ...]) -> list[Device]:
    """The devices of a setting. Raises `EvaluatorUnavailable` for one that is not there."""
    gpus = visible_gpus() if wanted != ("cpu",) else []
    if wanted == ("auto",):
        wanted = tuple(f"cuda:{number}" for number in range(len(gpus))) or ("cpu",)
    chosen = []
    for name in wanted:
        if name == "cpu":
            chosen.append(Device(name, "cpu", None))
            continue
        number = int(name.removeprefix("cuda:"))
        if number >= len(gpus):
            raise EvaluatorUnavailable(f"{name} was asked for; this machine has {len(gpus)} GPU(s)")
        chosen.append(Device(name, "cuda", gpus[number]))
    return chosen
