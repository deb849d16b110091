"""The settings of a server, from arguments and from environment variables."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["LogLevel", "Settings"]

LogLevel = Literal["critical", "error", "warning", "info", "debug"]

_DEVICE = re.compile(r"cpu|cuda:\d+")


def _default_cache_dir() -> Path:
    if os.getuid() == 0:
        # The sandboxed users of a root service must be able to read headers in it: no home folder.
        return Path("/var/cache/kerneljudge")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kerneljudge"


class Settings(BaseSettings):
    """Everything that can be set of a server.

    Each field is read from the environment variable of its name with the prefix `KERNELJUDGE_`,
    such as `KERNELJUDGE_PORT`; an argument wins over the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix="KERNELJUDGE_",
        use_attribute_docstrings=True,
        validate_by_name=True,
        frozen=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on. There is no access control yet: keep it on loopback."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which the server prints."""
    log_level: LogLevel = "info"
    """Least severe level that is logged, on standard error."""
    devices: Annotated[tuple[str, ...], NoDecode] = ("auto",)
    """Devices to judge on: `auto` (every visible GPU, or the CPU where there is none), `cpu`, or
    a list such as `cuda:0,cuda:1`."""
    cache_dir: Path = Field(default_factory=_default_cache_dir)
    """Folder of the build cache; `$XDG_CACHE_HOME/kerneljudge` unless set, and for root
    `/var/cache/kerneljudge`."""
    standby: int = Field(default=4, ge=0, le=64)
    """Runners prepared ahead of need on each device."""
    runner_memory_bytes: int | None = Field(default=None, ge=2**28)
    """Host memory that one kernel, or one build, may use; half of the machine's unless set."""
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Largest request body in bytes; a larger one is answered with 413."""
    job_retention: float = Field(default=3600, ge=0)
    """Seconds for which a finished job can be asked for, before the background cleanup drops it."""
    cleanup_interval: float = Field(default=300, gt=0)
    """Seconds between two background cleanups."""
    shutdown_grace: float = Field(default=10, ge=0)
    """Seconds that running jobs are given to end when the server stops."""
    gpu_type: str | None = Field(
        default=None, validation_alias=AliasChoices("KERNELJUDGE_GPU_TYPE", "GPU_TYPE")
    )
    """GPU type for the `X-GPU-Type` header, instead of the one that is detected. Also read from
    `GPU_TYPE`."""
    pod_name: str = Field(
        default_factory=socket.gethostname,
        validation_alias=AliasChoices("KERNELJUDGE_POD_NAME", "POD_NAME"),
    )
    """Name of this server in responses; the host's name unless set. Also read from `POD_NAME`."""
    pod_ip: str = Field(
        default="127.0.0.1", validation_alias=AliasChoices("KERNELJUDGE_POD_IP", "POD_IP")
    )
    """Address of this server in responses. Also read from `POD_IP`."""

    @field_validator("devices", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("devices")
    @classmethod
    def _known(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        if devices == ("auto",):
            return devices
        if not devices:
            raise ValueError("devices is empty: give auto, cpu, or a list such as cuda:0,cuda:1")
        for device in devices:
            if not _DEVICE.fullmatch(device):
                raise ValueError(
                    f"{device!r} is no device: give auto alone, or a list of cpu and cuda:N"
                )
        if len(set(devices)) < len(devices):
            raise ValueError(f"devices names one twice: {','.join(devices)}")
        return devices
