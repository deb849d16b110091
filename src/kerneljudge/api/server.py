"""A whole server in one process: listener, devices, service, application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from kerneljudge.api.app import create_app
from kerneljudge.service import JobService, Settings
from kerneljudge.service.fleet import Fleet

__all__ = ["run_server"]

# Beyond the grace of the jobs themselves, for their answers to be sent.
_ANSWER_SECONDS = 5


async def run_server(settings: Settings, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serves until `stop` is set, then ends every job and every process.

    `ready` is called with the server's URL once it takes jobs. Raises `OSError` where the address
    cannot be listened on, and `EvaluatorUnavailable` where a device does not start.
    """
    # Bound first, so that a port that is taken shows before the devices are started; nothing
    # can connect before the application listens.
    with _bound(settings) as listener:
        fleet = Fleet(settings)
        try:
            if await _started(fleet, stop):
                await _serve(settings, fleet, listener, stop, ready)
        finally:
            await fleet.stop()


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            reason = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        yield listener


async def _started(fleet: Fleet, stop: asyncio.Event) -> bool:
    """Starts the devices; False where `stop` was set meanwhile."""
    starting = asyncio.create_task(fleet.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return False
    await starting
    return True


async def _serve(
    settings: Settings,
    fleet: Fleet,
    listener: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    service = JobService(
        fleet, retention=settings.job_retention, cleanup_interval=settings.cleanup_interval
    )
    config = uvicorn.Config(
        create_app(service, settings),
        log_config=None,
        log_level=settings.log_level,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + _ANSWER_SECONDS,
    )
    server = _Server(config, lambda: ready(_url(settings.host, listener)))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    # The jobs end first: then their clients have their answers, and uvicorn has no one to wait for.
    await service.stop(settings.shutdown_grace)
    await serving


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
