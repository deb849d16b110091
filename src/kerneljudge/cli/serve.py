"""`kerneljudge serve`: a server in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kerneljudge.cli.console import exit_on_error
from kerneljudge.cli.settings import read_options, read_settings
from kerneljudge.client import ServerError

if TYPE_CHECKING:
    from kerneljudge.service import Settings

__all__ = ["serve"]


def serve(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one (default: 8000).")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="auto, cpu, or a list such as cuda:0,cuda:1 (default: auto)."),
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the build cache.")] = None,
    standby: Annotated[
        int | None, typer.Option(help="Runners prepared ahead of need on each device.")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="critical, error, warning, info or debug (default: info)."),
    ] = None,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Serve until stopped by Ctrl-C or SIGTERM.

    Prints one line with the address once jobs are taken. Every other setting is an option too,
    such as --max-queued 500, and each is an environment variable, such as KERNELJUDGE_PORT, and a
    key of the TOML file: `kerneljudge config` lists them.
    """
    given = {
        "config": config,
        "host": host,
        "port": port,
        "devices": devices,
        "cache_dir": cache_dir,
        "standby": standby,
        "log_level": log_level,
    }
    with exit_on_error():
        chosen = {name: value for name, value in given.items() if value is not None}
        settings = read_settings(chosen | read_options(context.args))
        # Not before the settings are known to be readable: it takes the extra `server`.
        from kerneljudge.service.logs import configure

        configure(settings.log_level, settings.log_format)
        asyncio.run(_serve(settings, until_eof))


async def _serve(settings: Settings, until_eof: bool) -> None:
    from kerneljudge.api.server import run_server
    from kerneljudge.service import EvaluatorUnavailable, ServiceError

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        threading.Thread(target=_stop_at_eof, args=(loop, stop), daemon=True).start()
    try:
        await run_server(settings, stop, _announce)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ServerError(f"{where}{error.strerror or error}") from error
    except (EvaluatorUnavailable, ServiceError) as error:
        raise ServerError(str(error)) from error


def _announce(url: str) -> None:
    # Scripts wait for this line.
    print(f"KernelJudge listening on {url}", flush=True)


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 65536):
        pass
    loop.call_soon_threadsafe(stop.set)
