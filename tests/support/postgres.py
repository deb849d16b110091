"""Databases for tests, among them those of a PostgreSQL server: a cluster of its own, on a
socket in a folder of its own.

A pytest plugin: a module of tests that says `pytest_plugins = ["postgres"]` has its fixtures.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import alive, descendants

__all__ = ["Postgres", "database_url", "emptied_postgres_url", "postgres", "postgres_url"]


def _find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`: the newest that Debian has, or one on the path."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name)
    )
    found = shutil.which("initdb")
    candidates = [*reversed(installed), *([Path(found).parent] if found else [])]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@dataclass
class Postgres:
    """A server, and how to reach it."""

    binaries: Path
    """Where its programs are."""
    folder: Path
    """Its data, its socket and its log."""
    user: str | None
    """Whom it runs as; None for us. PostgreSQL refuses to run as root."""
    process: subprocess.Popen[bytes] | None = None
    """Its process, while it runs."""

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://kerneljudge@/{database}?host={self.folder}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        # It need not outlive the machine, only its own death.
        options = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        # However this process ends, the server ends after it.
        within = ["setpriv", "--pdeathsig=INT"]
        if self.user is not None:
            group = pwd.getpwnam(self.user).pw_gid
            within += [f"--reuid={self.user}", f"--regid={group}", "--clear-groups"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*within, self.binaries / "postgres", "-D", self.folder / "data", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log_text = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL does not answer:\n{log_text}")
            time.sleep(0.05)

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """Stops it: by SIGINT every connection is cut, by SIGKILL nothing is put away first."""
        if self.process is not None:
            # One that serves a connection outlives a killed server for a moment.
            serving = descendants(self.process.pid)
            self.process.send_signal(with_signal)
            self.process.wait(timeout=60)
            self.process = None
            while any(alive(pid) for pid in serving):
                time.sleep(0.01)

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{secrets.token_hex(8)}"
        self._psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Removes it, and cuts whoever is connected."""
        name = url.partition("@/")[2].partition("?")[0]
        self._psql(f"DROP DATABASE {name} WITH (FORCE)")

    def _psql(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def _running(binaries: Path) -> Iterator[Postgres]:
    """A new cluster with its server, both gone at the end."""
    user = None
    # Not below pytest's folder, which another user may not enter, and short: a socket's path has
    # a hundred bytes.
    folder = Path(tempfile.mkdtemp(prefix="kj-postgres-", dir="/tmp"))
    if os.getuid() == 0:
        user = _unprivileged()
        shutil.chown(folder, user)
    server = Postgres(binaries, folder, user)
    try:
        subprocess.run(
            [
                binaries / "initdb",
                *("-D", folder / "data"),
                *("--username=kerneljudge", "--auth=trust", "--encoding=UTF8", "--locale=C"),
                "--no-sync",
            ],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for the whole session. Without PostgreSQL its tests are skipped, but not in CI."""
    binaries = _find_binaries()
    if binaries is None:
        why = "PostgreSQL's server is not installed (Debian's package postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    with _running(binaries) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a new, empty database."""
    url = postgres.make_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def _kept_url(postgres: Postgres) -> str:
    return postgres.make_database()


@pytest.fixture
def emptied_postgres_url(_kept_url: str) -> Iterator[str]:
    """The URL of a database that is there already, perhaps with tables, but without a row: sooner
    at hand than a new one."""
    import psycopg

    yield _kept_url
    with psycopg.connect(_kept_url) as connection:
        tables = connection.execute(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
            "WHERE schemaname = 'public' AND tablename <> 'kerneljudge_version'"
        ).fetchone()
        if tables is not None and tables[0] is not None:
            connection.execute(f"TRUNCATE {tables[0]} RESTART IDENTITY".encode())


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("emptied_postgres_url")
        return url
    return f"sqlite:///{tmp_path}/jobs.db" if request.param == "sqlite-file" else "sqlite://"


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
