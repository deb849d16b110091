"""A whole server in one process: database, listener, devices, service, application."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

import kerneljudge
from kerneljudge.api.access import is_loopback
from kerneljudge.api.app import create_app
from kerneljudge.api.slow_clients import ImpatientProtocol
from kerneljudge.service import JobService, KeyRing, ServiceError, Settings, SqlStore
from kerneljudge.service.access import register_admin_key
from kerneljudge.service.fleet import Fleet
from kerneljudge.service.tracing import JobTracer

__all__ = ["run_server"]

_LOG = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
# Connections that wait to be accepted: a thousand clients may come at once.
_BACKLOG = 4096
# In one turn of the event loop, so that what else is asked gets its turn.
_ACCEPTED_AT_ONCE = 64
_DESCRIPTORS = 65_536
_SWITCH_SECONDS = 0.0005

# For the last answers to be sent.
_ANSWER_SECONDS = 5


async def run_server(settings: Settings, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
    """Serves until `stop` is set, then gives the jobs back to the queue and ends every process.

    `ready` is called with the server's URL once it takes jobs. Raises `OSError` where the address
    cannot be listened on or a file of TLS is none, `DatabaseUnusable`, `ServiceError` where the
    file of the admin key is of no use or the extra `trace` is missing, and
    `EvaluatorUnavailable` where a device does not start.
    """
    _check_tls(settings)
    _raise_descriptor_limit()
    # The event loop waits so long for each thread that parses or stores something.
    sys.setswitchinterval(_SWITCH_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        # Bound first, so that a port that is taken shows before anything is started; nothing can
        # connect before the application listens.
        listener = stack.enter_context(_bound(settings.host, settings.port))
        tracer = await stack.enter_async_context(_traced(settings))
        store = await stack.enter_async_context(_opened(settings))
        host = await _host(settings, store)
        if host != settings.host:
            listener.close()
            listener = stack.enter_context(_bound(host, settings.port))
        fleet = Fleet(settings)
        try:
            if await _started(fleet, stop):
                await _serve(settings, store, fleet, tracer, host, listener, stop, ready)
        finally:
            await fleet.stop()


def _raise_descriptor_limit() -> None:
    """Every client that waits holds a descriptor, and shells often allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _check_tls(settings: Settings) -> None:
    """Raises `OSError` now rather than when the devices have been started."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(
                f"TLS cannot use the certificate {certificate} with the key {key}: {reason}"
            ) from error


@contextlib.asynccontextmanager
async def _traced(settings: Settings) -> AsyncIterator[JobTracer | None]:
    if settings.trace_endpoint is None:
        yield None
        return
    tracer = JobTracer(
        settings.trace_endpoint, server=settings.pod_name, version=kerneljudge.__version__
    )
    try:
        yield tracer
    finally:
        await asyncio.to_thread(tracer.close)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[SqlStore]:
    store = await SqlStore.open(settings.database_url)
    try:
        if settings.admin_key_file is not None:
            try:
                await register_admin_key(store, settings.admin_key_file)
            except ValueError as error:
                raise ServiceError(str(error)) from error
        yield store
    finally:
        await store.close()


async def _host(settings: Settings, store: SqlStore) -> str:
    """Where to listen: without a key, whoever reaches the server may do everything."""
    if is_loopback(settings.host) or any(key.enabled for key in await store.keys()):
        return settings.host
    _LOG.warning(
        "there is no API key, so the server listens on %s alone and not on %s: make a key with "
        "`kerneljudge keys create`, or give KERNELJUDGE_ADMIN_KEY_FILE, and start it again",
        _LOOPBACK,
        settings.host,
    )
    return _LOOPBACK


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            reason = f"cannot listen on {host}:{port}: {error.strerror}"
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
    store: SqlStore,
    fleet: Fleet,
    tracer: JobTracer | None,
    host: str,
    listener: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    service = JobService(
        fleet,
        store=store,
        settings=settings,
        weights=KeyRing(store).weights,
        ended=tracer.ended if tracer is not None else None,
    )
    config = uvicorn.Config(
        create_app(service, settings, store),
        http=ImpatientProtocol,
        log_config=None,
        log_level=settings.log_level,
        backlog=_ACCEPTED_AT_ONCE,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=_ANSWER_SECONDS,
    )
    server = _Server(config, lambda: ready(_url(host, listener, tls=config.is_ssl)))
    # Before the application's own start, whose failures uvicorn would only log.
    async with service:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        # The jobs end first, while new ones are refused: then their clients have their answers,
        # and uvicorn has no one to wait for.
        await service.stop(settings.shutdown_grace)
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            # asyncio takes as many connections at once as it lets the system hold.
            listener.listen(_BACKLOG)
        # What imports have left need not be looked through at each collection, during which nobody
        # is answered.
        gc.collect()
        gc.freeze()
        self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _url(host: str, listener: socket.socket, *, tls: bool) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{listener.getsockname()[1]}"
