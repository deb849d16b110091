"""A connection to SQLite or PostgreSQL: opened, migrated, driven from threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import StaticPool

from kerneljudge.service.errors import DatabaseUnusable
from kerneljudge.service.store.tables import metadata

__all__ = ["Database"]

T = TypeVar("T")

_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION_TABLE = "kerneljudge_version"

# Advisory locks of PostgreSQL, one number for what servers do one at a time.
_MIGRATING = 0x6B6A_0001
_CREATING = 0x6B6A_0002

_POSTGRES_THREADS = 8
# SQLite answers from memory, under Python's one lock: more threads would not be faster.
_SQLITE_READERS = 2
_SQLITE_BUSY_SECONDS = 10

# Results of SQLite that tell of the file or the machine. Those of a wrong statement are not here.
_SQLITE_UNUSABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
_INSUFFICIENT_PRIVILEGE = "42501"
# So says a standby, which a server that was the primary may have become.
_READ_ONLY = "25006"
_POSTGRES_UNUSABLE = {_INSUFFICIENT_PRIVILEGE, _READ_ONLY}

# A server whose machine vanishes says no goodbye: without a bound its locks, of which one is
# everybody's, stay until PostgreSQL finds out, hours later. Shorter than a lease usually is, so
# that others can renew theirs in time.
_IDLE_IN_TRANSACTION_SECONDS = 10
# And where PostgreSQL's machine vanishes, a server that waits for its answer finds out by these.
_POSTGRES_ALIVE = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}

# Alembic keeps the migration in progress in a global.
_alembic = threading.Lock()


class Database:
    """An open database. Work on it is a function of a connection, run in one transaction."""

    def __init__(
        self, url: sa.URL, engine: sa.Engine, *, lock: int | None, readers: int, writers: int | None
    ) -> None:
        """For `open` alone. `writers` None writes from the threads that read."""
        self.exclusive = engine.dialect.name == "sqlite"
        """Whether one server at a time has this database."""
        self._shown = _shown(url)
        self._engine = engine
        self._lock = lock
        self._readers = ThreadPoolExecutor(readers, "kerneljudge-database")
        self._writers = (
            self._readers
            if writers is None
            else ThreadPoolExecutor(writers, "kerneljudge-database-writer")
        )

    @classmethod
    async def open(cls, url: str, *, serving: bool) -> Database:
        """Connects, and migrates to the latest revision. Raises `DatabaseUnusable`."""
        return await asyncio.to_thread(cls._open, _parsed(url), serving)

    @classmethod
    def _open(cls, url: sa.URL, serving: bool) -> Database:
        lock = None
        with contextlib.ExitStack() as undo, _unusable_told(_shown(url)):
            if url.get_backend_name() == "postgresql":
                engine = _postgres_engine(url)
                database = cls(url, engine, lock=None, readers=_POSTGRES_THREADS, writers=None)
            elif url.database in (None, "", ":memory:"):
                engine = _sqlite_engine(url, poolclass=StaticPool)
                database = cls(url, engine, lock=None, readers=1, writers=None)
            else:
                assert url.database is not None
                path = _prepared_file(url.database)
                if serving:
                    lock = _locked(path)
                    undo.callback(os.close, lock)
                engine = _sqlite_engine(url.set(database=str(path)))
                # One thread writes, so that no two transactions wait for each other in SQLite,
                # which sleeps and asks again.
                database = cls(url, engine, lock=lock, readers=_SQLITE_READERS, writers=1)
            undo.callback(engine.dispose)
            with (
                _alembic,
                engine.connect() as connection,
                _begun(connection, write=True, lasting=True),
            ):
                _migrate(connection, _shown(url))
            undo.pop_all()
            return database

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` returns, which only reads."""
        return await self._on(self._readers, self._transaction, work, False, False)

    async def write(self, work: Callable[[sa.Connection], T], *, lasting: bool = True) -> T:
        """What `work` returns. If it raises, it has written nothing.

        What it wrote outlives every process; and, if `lasting`, the database's machine too,
        should that lose its power in the next moment. Else no time is spent on waiting for the
        disk; what is lost then is the end of all that was written, never something before it.
        """
        return await self._on(self._writers, self._transaction, work, True, lasting)

    async def aside(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns, called in a thread that writes nothing."""
        return await self._on(self._readers, function, *arguments)

    async def close(self) -> None:
        """Ends the work in progress, then every connection."""
        await asyncio.to_thread(self._close)

    @staticmethod
    def one_at_a_time(connection: sa.Connection) -> None:
        """Lets a transaction that creates jobs wait for those of all other servers, so that what
        it counts and looks up stays true. In SQLite every write does."""
        _advisory_lock(connection, _CREATING)

    async def _on(
        self, executor: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def _transaction(self, work: Callable[[sa.Connection], T], write: bool, lasting: bool) -> T:
        with (
            _unusable_told(self._shown),
            self._engine.connect() as connection,
            _begun(connection, write=write, lasting=lasting),
        ):
            return work(connection)

    def _close(self) -> None:
        self._writers.shutdown()
        self._readers.shutdown()
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        # What they say may repeat the password.
        raise DatabaseUnusable(
            "the database's URL cannot be read: give sqlite:////path/jobs.db or "
            "postgresql://user@host/name, with special characters of a password as %XX"
        ) from None
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return url
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise DatabaseUnusable(
        f"{_shown(url)} is no database for KernelJudge: give sqlite:////path/jobs.db or "
        "postgresql://user@host/name"
    )


def _shown(url: sa.URL) -> str:
    # PostgreSQL's URLs may carry a password in their query as well.
    shown = url.set(drivername=url.get_backend_name(), query={})
    return shown.render_as_string(hide_password=True)


def _postgres_engine(url: sa.URL) -> sa.Engine:
    defaults = {"application_name": "kerneljudge", **_POSTGRES_ALIVE}
    url = url.update_query_dict({**defaults, **url.query})
    try:
        engine = sa.create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_size=_POSTGRES_THREADS,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,  # of errors, which are told: they hold sources and digests
        )
    except ModuleNotFoundError as error:
        raise DatabaseUnusable(
            f"{_shown(url)} needs psycopg: install it with pip install 'kerneljudge[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def bound(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(
            f"SET idle_in_transaction_session_timeout = '{_IDLE_IN_TRANSACTION_SECONDS}s'"
        )
        cursor.close()
        # What a transaction sets goes with it, where that is rolled back.
        connection.commit()

    return engine


def _sqlite_engine(url: sa.URL, **options: Any) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,
        **options,
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _record: object) -> None:
        # Python's module begins transactions at moments of its own unless told not to.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options["write"]:
            # FULL waits for the disk at each commit, NORMAL does not.
            level = "FULL" if options["lasting"] else "NORMAL"
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            # A transaction that reads first and then writes could not get the lock any more.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _prepared_file(name: str) -> Path:
    if name.startswith("file:"):
        raise DatabaseUnusable(
            f"{name} is no path: give the SQLite file as in sqlite:////path/jobs.db"
        )
    path = Path(name).resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # For this user alone, since sandboxed kernels may run as others; SQLite gives the files
        # beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise DatabaseUnusable(
            f"the database {path} cannot be written: {error.strerror}; set KERNELJUDGE_DATABASE "
            "or KERNELJUDGE_STATE_DIR to where this user may write"
        ) from error
    return path


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of a server on the file; the kernel ends it with the
    process."""
    beside = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseUnusable(f"{beside} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise DatabaseUnusable(
            f"another server has the database {path} (process {holder or 'unknown'}): stop it, "
            "or give this one a database of its own with KERNELJUDGE_DATABASE; servers that are "
            "to share their jobs need PostgreSQL"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _migrate(connection: sa.Connection, shown: str) -> None:
    _advisory_lock(connection, _MIGRATING)
    config = Config(attributes={"connection": connection, "version_table": _VERSION_TABLE})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    existing = sa.inspect(connection).get_table_names()
    if _VERSION_TABLE in existing:
        version = sa.table(_VERSION_TABLE, sa.column("version_num"))
        revision = connection.scalar(sa.select(version.c.version_num))
        if revision == script.get_current_head():
            return
        if revision not in {known.revision for known in script.walk_revisions()}:
            raise DatabaseUnusable(
                f"the database {shown} is of revision {revision}, which this KernelJudge does not "
                "know: a newer one wrote it. Start that one, or give this one another database"
            )
    elif foreign := metadata.tables.keys() & set(existing):
        raise DatabaseUnusable(
            f"the database {shown} is of another application: it has a table "
            f"{min(foreign)} that KernelJudge did not make. Give KernelJudge one of its own"
        )
    command.upgrade(config, "head")


def _advisory_lock(connection: sa.Connection, number: int) -> None:
    """Held to the end of the transaction. SQLite's transactions that write are one at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


@contextlib.contextmanager
def _begun(connection: sa.Connection, *, write: bool, lasting: bool) -> Iterator[None]:
    with connection.execution_options(write=write, lasting=lasting).begin():
        if write and not lasting and connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        yield


@contextlib.contextmanager
def _unusable_told(shown: str) -> Iterator[None]:
    """Makes `DatabaseUnusable` of what says that the database is, not the statement."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if _is_unusable(error):
            said = str(error.orig).strip()
            raise DatabaseUnusable(f"the database {shown} cannot be used: {said}") from error
        raise


def _is_unusable(error: sa.exc.DBAPIError) -> bool:
    original = error.orig
    if isinstance(original, sqlite3.Error):
        # The low byte is the result; the rest says more of it.
        return getattr(original, "sqlite_errorcode", 0) & 0xFF in _SQLITE_UNUSABLE
    return (
        error.connection_invalidated
        or isinstance(error, sa.exc.OperationalError)
        or getattr(original, "sqlstate", None) in _POSTGRES_UNUSABLE
    )
