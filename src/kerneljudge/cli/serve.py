"""`kerneljudge serve`: a server in the foreground."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerneljudge.cli.console import Usage, exit_on_error
from kerneljudge.client import ServerError

if TYPE_CHECKING:
    from kerneljudge.service import Settings

__all__ = ["serve"]


def serve(
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

    Prints one line with the address once jobs are taken. Every option is also an environment
    variable, such as KERNELJUDGE_PORT; see the documentation for the ones that have no option.
    """
    given = {
        "host": host,
        "port": port,
        "devices": devices,
        "cache_dir": cache_dir,
        "standby": standby,
        "log_level": log_level,
    }
    with exit_on_error():
        settings = _settings({name: value for name, value in given.items() if value is not None})
        logging.basicConfig(
            level=settings.log_level.upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        asyncio.run(_serve(settings, until_eof))


def _settings(given: dict[str, Any]) -> Settings:
    try:
        from pydantic import ValidationError

        from kerneljudge.service import Settings
    except ModuleNotFoundError as error:
        raise Usage(
            f"serving needs the extra `server`, of which {error.name} is missing: "
            'pip install "kerneljudge[server]"'
        ) from None
    try:
        return Settings(**given)
    except ValidationError as error:
        raise Usage(f"the settings are not valid: {error}") from None


async def _serve(settings: Settings, until_eof: bool) -> None:
    from kerneljudge.api.server import run_server
    from kerneljudge.service import EvaluatorUnavailable

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        threading.Thread(target=_stop_at_eof, args=(loop, stop), daemon=True).start()
    try:
        await run_server(settings, stop, _announce)
    except (OSError, EvaluatorUnavailable) as error:
        raise ServerError(str(error)) from error


def _announce(url: str) -> None:
    # Scripts wait for this line.
    print(f"KernelJudge listening on {url}", flush=True)


def _stop_at_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 65536):
        pass
    loop.call_soon_threadsafe(stop.set)
