"""The settings of a server: from arguments, the environment and a TOML file."""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

__all__ = ["LogLevel", "Settings", "SettingsError", "environment_names", "origins"]

LogLevel = Literal["critical", "error", "warning", "info", "debug"]

_PREFIX = "KERNELJUDGE_"
_DEVICE = re.compile(r"cpu|cuda:\d+")


def _default_cache_dir() -> Path:
    if os.getuid() == 0:
        # The sandboxed users of a root service must be able to read headers in it: no home folder.
        return Path("/var/cache/kerneljudge")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kerneljudge"


def _default_state_dir() -> Path:
    if os.getuid() == 0:
        return Path("/var/lib/kerneljudge")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "kerneljudge"


class Settings(BaseSettings):
    """Everything that can be set of a server.

    Each field is an option of `kerneljudge serve` (`--port`), an environment variable
    (`KERNELJUDGE_PORT`) and a key of the TOML file that `config` names (`port`). An option wins
    over the environment, that over the file, and that over the default.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        frozen=True,
    )

    config: Path | None = None
    """TOML file with settings, under the names of this page."""

    host: str = "127.0.0.1"
    """Address to listen on. A server without API keys listens on loopback alone, whatever this
    says."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which the server prints."""
    tls_certificate: Path | None = None
    """File of the TLS certificate and its chain, PEM; with `tls_key`, the server speaks HTTPS."""
    tls_key: Path | None = None
    """File of the certificate's private key, PEM."""
    log_level: LogLevel = "info"
    """Least severe level that is logged, on standard error."""
    log_format: Literal["text", "json"] = "text"
    """`json` writes one object a line."""
    trace_endpoint: str | None = None
    """OTLP endpoint over HTTP that gets a trace of each job's phases, such as
    `http://localhost:4318`; needs the extra `trace`."""

    devices: Annotated[tuple[str, ...], NoDecode] = ("auto",)
    """Devices to judge on: `auto` (every visible GPU, or the CPU where there is none), `cpu`, or
    a list such as `cuda:0,cuda:1`."""
    standby: int = Field(default=6, ge=0, le=64)
    """Runners prepared ahead of need on each device."""
    reference_runners: int = Field(default=4, ge=0, le=64)
    """Runners kept on each device after they ran a reference, for further comparisons with the
    very same reference and contract; with 0, each comparison has a new process for its reference
    too. A candidate always has one of its own."""
    jobs_per_device: int = Field(default=8, ge=1, le=64)
    """Jobs that a device's judge works on at once: one is measured, the others are read, built
    and loaded."""
    builders: int | None = Field(default=None, ge=1, le=1024)
    """Builds at once, over all devices; one a CPU unless set."""
    runner_memory_bytes: int | None = Field(default=None, ge=2**28)
    """Host memory that one kernel, or one build, may use; half of the machine's unless set."""
    start_timeout: float = Field(default=600, gt=0)
    """Seconds within which the judge of a device must take jobs."""
    quarantine_failures: int = Field(default=3, ge=1)
    """Failures of a device in a row after which it gets no jobs until it passes a self-test."""
    quarantine_seconds: float = Field(default=30, gt=0)
    """Seconds between a device's quarantine and its self-test, doubled after each that fails."""

    cache_dir: Path = Field(default_factory=_default_cache_dir)
    """Folder of the build cache; `$XDG_CACHE_HOME/kerneljudge` unless set, and for root
    `/var/cache/kerneljudge`."""
    cache_max_bytes: int = Field(default=20 * 2**30, ge=2**20)
    """Bytes of builds and compiled Triton kernels that are kept; the longest unused go first."""

    database: str | None = None
    """SQLAlchemy URL of the database: `sqlite:////path/jobs.db` or
    `postgresql://user@host/name`, which needs the extra `postgres`; a SQLite file in `state_dir`
    unless set."""
    state_dir: Path = Field(default_factory=_default_state_dir)
    """Folder of the SQLite database; `$XDG_STATE_HOME/kerneljudge` unless set, and for root
    `/var/lib/kerneljudge`."""
    lease_seconds: float = Field(default=30, ge=1)
    """Seconds after which another server takes over the jobs of one that gives no sign of life.
    It gives three in that time."""
    max_attempts: int = Field(default=3, ge=1)
    """Times that a job is begun, where servers, judges or devices die under it."""
    job_retention: float = Field(default=3600, ge=0)
    """Seconds for which a finished job can be asked for, before the background cleanup drops it."""
    cleanup_interval: float = Field(default=300, gt=0)
    """Seconds between two background cleanups."""
    shutdown_grace: float = Field(default=10, ge=0)
    """Seconds that running jobs are given to end when the server stops; what then still runs, or
    waits, is resumed by the next server."""

    max_queued: int = Field(default=10_000, ge=1)
    """Jobs that may wait; one more is answered with 429."""
    max_unfinished_per_key: int | None = Field(default=None, ge=1)
    """Unfinished jobs that one API key may have, unless the key has a bound of its own."""
    max_deadline: float = Field(default=3600, gt=0)
    """Seconds from submission within which a job must end, where its request names no fewer."""
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Largest request body in bytes; a larger one is answered with 413."""
    max_source_bytes: int = Field(default=1024 * 1024, ge=1024)
    """Largest source of one kernel in bytes of UTF-8."""
    max_tensor_bytes: int = Field(default=32 * 2**30, ge=1024)
    """Largest single tensor of a contract in bytes."""
    max_trials: int = Field(default=10_000, ge=1, le=10_000)
    """Most timed runs that a request may ask for."""
    max_timeout: float = Field(default=600, ge=5, le=600)
    """Longest timeout in seconds that a request may ask for."""
    max_batch: int = Field(default=1000, ge=1)
    """Most requests in one batch."""
    admin_key_file: Path | None = None
    """File whose content is the secret of an API key with the scope `admin`, made known to the
    database when the server starts: how a container gets its first key."""

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

    @property
    def database_url(self) -> str:
        """The database, by default the SQLite file `jobs.db` in `state_dir`."""
        return self.database or f"sqlite:///{self.state_dir.absolute()}/jobs.db"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file that either of them names."""
        assert isinstance(init_settings, InitSettingsSource)
        path = config_path(init_settings.init_kwargs)
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, _File(settings_cls, path)

    @model_validator(mode="after")
    def _whole_tls(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS takes both tls_certificate and tls_key: one of them is not set")
        return self

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

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


class _File(PydanticBaseSettingsSource):
    """The keys of a TOML file, of which none may be unknown."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        self._values = _read(path)

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, if the file has it."""
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values that no argument and no environment variable has set, by whatever name."""
        return {
            name: value
            for name, value in self._values.items()
            if not {name, *environment_names(name)} & self.current_state.keys()
        }


def config_path(arguments: Mapping[str, Any]) -> Path | None:
    """The TOML file that the arguments name, or else the environment."""
    named = arguments.get("config") or _variable("config")[1]
    return Path(named) if named else None


def environment_names(field_name: str) -> list[str]:
    """The environment variables that set a field, the one that wins first."""
    alias = Settings.model_fields[field_name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [f"{_PREFIX}{field_name.upper()}"]


def origins(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Where each setting comes from, given these arguments: `--port`, `KERNELJUDGE_PORT`, the
    path of the TOML file, or `default`."""
    path = config_path(arguments)
    in_file = _read(path) if path is not None else {}
    found = {}
    for name in Settings.model_fields:
        variable, value = _variable(name)
        if name in arguments:
            found[name] = f"--{name.replace('_', '-')}"
        elif value:
            found[name] = variable
        elif name in in_file:
            found[name] = str(path)
        else:
            found[name] = "default"
    return found


def _variable(field_name: str) -> tuple[str, str]:
    """The environment variable that sets a field, as it is written there, and its value."""
    written = {name.upper(): name for name, value in os.environ.items() if value}
    for name in environment_names(field_name):
        if name in written:
            return written[name], os.environ[written[name]]
    return environment_names(field_name)[0], ""


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings in {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path} is no TOML: {error}") from None
    unknown = list(_unknown(values))
    if unknown:
        raise SettingsError(f"{path} sets what there is not: {'; '.join(unknown)}")
    return values


def _unknown(values: dict[str, Any]) -> Iterator[str]:
    known = set(Settings.model_fields) - {"config"}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
            yield f"`{name}`, of which the nearest is `{near[0]}`" if near else f"`{name}`"
