"""Writes docs/configuration.md from the settings model.

With `--check` it writes nothing, and exits with 1 where the page is not what it would write.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from kerneljudge.service.settings import Settings, environment_names

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

# The first setting of each section.
SECTIONS = {
    "config": "The file",
    "host": "Listening and logs",
    "devices": "Devices",
    "cache_dir": "Build cache",
    "database": "Jobs and their database",
    "max_queued": "Bounds",
    "admin_key_file": "Access",
    "gpu_type": "Names in responses",
}

# Defaults that depend on the machine, in words.
IN_WORDS = {
    "cache_dir": "`$XDG_CACHE_HOME/kerneljudge`",
    "state_dir": "`$XDG_STATE_HOME/kerneljudge`",
    "pod_name": "the host's name",
}

TYPES = {str: "text", int: "integer", float: "number", Path: "path"}

UNITS = [(30, "GiB"), (20, "MiB"), (10, "KiB")]

HEAD = """\
# Configuration

<!-- Written by scripts/configuration_reference.py from the settings model. Do not edit. -->

Every setting of a server can be made in three places:

| where | how | for `max_queued` |
|---|---|---|
| option | of `kerneljudge serve` | `--max-queued 500` |
| environment | with the prefix `KERNELJUDGE_` | `KERNELJUDGE_MAX_QUEUED=500` |
| file | a TOML file, named by `--config` or `KERNELJUDGE_CONFIG` | `max_queued = 500` |

An option wins over the environment, that over the file, and that over the default. An empty
environment variable sets nothing. A key of the file that is no setting is an error, which names
the nearest one that is.

`kerneljudge config` prints what a server would have here, and where each value comes from; it takes
the same options, and shows no passwords:

```bash
$ kerneljudge config --max-queued 500
```

A file for a server of two GPUs behind TLS:

<!-- saved as kerneljudge.toml -->
```toml
host = "0.0.0.0"
tls_certificate = "/etc/kerneljudge/certificate.pem"
tls_key = "/etc/kerneljudge/key.pem"
devices = ["cuda:0", "cuda:1"]
log_format = "json"
job_retention = 86400
max_unfinished_per_key = 500
```

```bash
$ kerneljudge config --config kerneljudge.toml --json
```

[Access](access.md) tells of API keys, [Operation](operation.md) of what to choose.
"""


TAIL = """
## Coming from the CUDA evaluation server

Its variables and options have other names here. Without the prefix only `GPU_TYPE`, `POD_NAME` and
`POD_IP` are read: a shell or a cluster sets `HOST` and `PORT` for purposes of its own.

| there | here |
|---|---|
| `HOST`, `--host` | `KERNELJUDGE_HOST`, `--host`; loopback unless set |
| `PORT`, `--port` | `KERNELJUDGE_PORT`, `--port` |
| `LOG_LEVEL`, `--log-level` | `KERNELJUDGE_LOG_LEVEL`, `--log-level` |
| `GPU_DEVICE` | `devices`; `CUDA_VISIBLE_DEVICES` is heeded |
| `MAX_WORKERS` | `jobs_per_device`, and `builders` for builds |
| `CUPY_KERNEL_CACHE_DIR`, `--cupy-cache-dir` | `cache_dir`: one cache for every way of building |
| `CUDA_EVAL_SERVER_URL` | `KERNELJUDGE_URL`, of the commands and the client |
| `ENABLE_DEVICE_METRICS`, `ENABLE_NCU`, `NCU_…` | none: this version reads no hardware counters |
| `--reload` | none: restart the server; its jobs are kept |
| `main.py --mode mcp` | `kerneljudge mcp`; `/mcp` is always served |
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections()) + TAIL


def _sections() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            yield f"\n## {SECTIONS[name]}\n"
        yield _entry(name, field)


def _entry(name: str, field: FieldInfo) -> str:
    names = environment_names(name)
    assert field.description is not None
    return (
        f"\n### {name}\n\n"
        f"{' '.join(field.description.split())}\n\n"
        f"`--{name.replace('_', '-')}`, {', '.join(f'`{each}`' for each in names)}. "
        f"{_kind(field)}; default: {_default(name, field)}.\n"
    )


def _kind(field: FieldInfo) -> str:
    bounds = {
        sign: getattr(rule, attribute)
        for rule in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(rule, attribute, None) is not None
    }
    shown = [_type(field.annotation), *(f"{sign} {value}" for sign, value in bounds.items())]
    text = ", ".join(shown)
    return text[0].upper() + text[1:]


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin is tuple:
        return "list, in text with commas between"
    if origin in (Union, types.UnionType):
        (kind,) = (each for each in get_args(annotation) if each is not type(None))
        return _type(kind)
    return TYPES[annotation]


def _default(name: str, field: FieldInfo) -> str:
    if name in IN_WORDS:
        return IN_WORDS[name]
    if field.default is None:
        return "unset"
    if isinstance(field.default, tuple):
        return f"`{','.join(field.default)}`"
    if name.endswith("_bytes"):
        return f"`{field.default}` ({_in_units(field.default)})"
    return f"`{field.default}`"


def _in_units(size: int) -> str:
    return next(f"{size // 2**power} {unit}" for power, unit in UNITS if size >= 2**power)


def main() -> int:
    """Writes the page, or checks it."""
    if "--check" in sys.argv[1:]:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        if not fresh:
            print(f"{PAGE} is stale: run python scripts/configuration_reference.py")
        return 0 if fresh else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
