"""A database is opened, migrated, kept from other servers, or refused with a reason."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from stores import NO_LIMITS, add, evaluate_request, new_job

from kerneljudge.service.access import ApiKey, Scope
from kerneljudge.service.errors import DatabaseUnusable
from kerneljudge.service.store import SqlStore
from kerneljudge.service.store.tables import metadata

if TYPE_CHECKING:
    from postgres import Postgres

pytest_plugins = ["postgres"]
pytestmark = [pytest.mark.integration, pytest.mark.anyio]

OPEN_AND_WAIT = """
import asyncio, sys
from kerneljudge.service.store import SqlStore

async def main():
    await SqlStore.open(sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def opening(url: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A server's process, as far as the database sees, which says `open`, and ends with what it
    is given to read."""
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, url],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


@pytest.fixture(params=["sqlite", "postgresql"])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/jobs.db"


INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}


def described(engine: sa.Engine) -> dict[str, Any]:
    """All that the tables of a database are made of."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        described: dict[str, Any] = {
            table: [
                [
                    column | {"type": repr(column["type"])}
                    for column in inspector.get_columns(table)
                ],
                inspector.get_pk_constraint(table),
                inspector.get_foreign_keys(table),
                inspector.get_unique_constraints(table),
                inspector.get_check_constraints(table),
            ]
            for table in metadata.tables
        }
        indexes = connection.execute(sa.text(INDEXES[engine.dialect.name]))
        return described | {name: text for name, text in indexes if "version" not in name}


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_migrations_make_the_tables_that_the_store_uses(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("migrated", "declared")]
    if kind == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        urls = [postgres.make_database() for _ in urls]
    await (await SqlStore.open(urls[0])).close()
    migrated, declared = map(engine_of, urls)
    metadata.create_all(declared)
    assert described(migrated) == described(declared)
    migrated.dispose()
    declared.dispose()


async def test_what_was_stored_is_there_when_the_database_is_opened_again(
    durable_url: str,
) -> None:
    store = await SqlStore.open(durable_url)
    job = new_job()
    await add(store, job)
    await store.close()
    store = await SqlStore.open(durable_url)
    assert await store.get(job.job_id) == job
    assert await store.request(job.job_id) == evaluate_request()
    await store.close()


async def test_a_database_of_a_newer_version_is_refused(durable_url: str) -> None:
    await (await SqlStore.open(durable_url)).close()
    engine = engine_of(durable_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE kerneljudge_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DatabaseUnusable, match=r"revision 9999.* a newer one wrote it"):
        await SqlStore.open(durable_url)


async def test_a_database_of_another_application_is_refused_and_left_alone(
    durable_url: str,
) -> None:
    engine = engine_of(durable_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE jobs (title TEXT)"))
    with pytest.raises(DatabaseUnusable, match="another application: it has a table jobs"):
        await SqlStore.open(durable_url)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["jobs"]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/name", r"mysql://me:\*\*\*@host/name is no database for Kernel"),
        ("postgresql+psycopg2://me:secret@host/name", r"me:\*\*\*@host/name is no database for"),
        ("jobs.db", "cannot be read: give sqlite:////path/jobs.db or"),
        ("postgresql://me:secret@host:port/name", "cannot be read"),
        ("sqlite:///file:jobs.db?mode=ro&uri=true", "is no path"),
        (
            "postgresql://me:secret@127.0.0.1:1/name?password=secret",
            r"postgresql://me:\*\*\*@127.0.0.1:1/name cannot be used: .*refused",
        ),
    ],
)
async def test_a_url_of_no_database_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(DatabaseUnusable, match=f"(?s){message}") as refused:
        await SqlStore.open(url)
    assert "secret" not in str(refused.value)


async def test_postgresql_without_its_driver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable, match=r"pip install 'kerneljudge\[postgres\]'"):
        await SqlStore.open("postgresql://me@host/name")


# SQLite


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    content = b"not a database, but a file of more than a hundred bytes" * 3
    file.write_bytes(content)
    with pytest.raises(DatabaseUnusable, match="file is not a database"):
        await SqlStore.open(f"sqlite:///{file}")
    assert file.read_bytes() == content


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnusable, match=r"folder/jobs.db cannot be written: Not a"):
        await SqlStore.open(f"sqlite:///{tmp_path}/file/folder/jobs.db")


async def test_the_file_is_for_its_user_alone(tmp_path: Path) -> None:
    store = await SqlStore.open(f"sqlite:///{tmp_path}/new/folder/jobs.db")
    await add(store, new_job())
    files = list((tmp_path / "new" / "folder").iterdir())
    assert {file.name for file in files} >= {"jobs.db", "jobs.db-wal", "jobs.db.lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "new" / "folder").stat().st_mode) == 0o700
    await store.close()


async def test_a_second_server_on_one_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    store = await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db")
    assert store.exclusive
    for name in ("jobs.db", "link.db"):
        with pytest.raises(DatabaseUnusable, match=rf"\(process {os.getpid()}\): stop it, or"):
            await SqlStore.open(f"sqlite:///{tmp_path}/{name}")
    await store.close()
    await (await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db")).close()


async def test_keys_can_be_managed_while_a_server_has_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    server = await SqlStore.open(url)
    beside = await SqlStore.open(url, serving=False)
    key = ApiKey("id", "name", "digest", frozenset({Scope.SUBMIT}), 1000.0)

    async def submit() -> None:
        for _ in range(20):
            await add(server, new_job())

    await asyncio.gather(submit(), beside.add_key(key))
    assert await server.find_key("digest") == key
    assert (await beside.counts()).total == 20
    await beside.close()
    with pytest.raises(DatabaseUnusable, match="another server"):
        await SqlStore.open(url)
    await server.close()


async def test_keys_can_be_managed_before_the_first_server_starts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    beside = await SqlStore.open(url, serving=False)
    server = await SqlStore.open(url)
    assert await beside.keys() == await server.keys() == []
    await beside.close()
    await server.close()


async def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with opening(url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(DatabaseUnusable, match=f"process {process.pid}"):
            await SqlStore.open(url)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    await (await SqlStore.open(url)).close()


async def test_a_file_that_is_locked_for_too_long_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kerneljudge.service.store.database._SQLITE_BUSY_SECONDS", 0.01)
    store = await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db")
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    job = new_job()
    with pytest.raises(DatabaseUnusable, match=r"jobs.db cannot be used: database is locked"):
        await add(store, job)
    await store.check()
    other.execute("ROLLBACK")
    other.close()
    await add(store, job)
    await store.close()


async def test_a_mistake_of_ours_is_not_taken_for_the_databases(tmp_path: Path) -> None:
    store = await SqlStore.open(f"sqlite:///{tmp_path}/jobs.db")
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        other.execute("ALTER TABLE events RENAME COLUMN message TO text")
    with pytest.raises(sa.exc.OperationalError, match="no such column"):
        await store.events("job")
    await store.close()


# PostgreSQL


async def test_servers_share_a_postgresql_database(postgres_url: str) -> None:
    one, two = await SqlStore.open(postgres_url), await SqlStore.open(postgres_url)
    assert not one.exclusive
    job = new_job()
    await add(one, job)
    assert await two.get(job.job_id) == job
    await one.close()
    await two.close()


def test_servers_that_open_a_new_postgresql_database_at_once_migrate_it_once(
    postgres_url: str,
) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(postgres_url) as connection:
        # Both have connected, and seen no table, before one of them may go on.
        connection.execute("SELECT pg_advisory_lock(%s)", [0x6B6A_0001])
        processes = [opening(postgres_url, subprocess.DEVNULL) for _ in range(2)]
        while (connection.execute(waiting).fetchone() or [0])[0] < 2:
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.05)
        connection.execute("SELECT pg_advisory_unlock(%s)", [0x6B6A_0001])
        connection.commit()
        for process in processes:
            assert process.communicate()[0] == "open\n"
        versions = connection.execute("SELECT count(*) FROM kerneljudge_version").fetchone()
    assert versions == (1,)
    assert [process.returncode for process in processes] == [0, 0]


async def test_the_store_recovers_when_its_server_has_been_away(
    postgres: Postgres, postgres_url: str
) -> None:
    store = await SqlStore.open(postgres_url)
    job = new_job()
    await add(store, job)
    postgres.stop(signal.SIGKILL)
    with pytest.raises(DatabaseUnusable, match="cannot be used"):
        await store.check()
    with pytest.raises(DatabaseUnusable, match="cannot be used"):
        await store.create([(new_job(), evaluate_request())], NO_LIMITS)
    postgres.start()
    await store.check()
    assert await store.get(job.job_id) == job
    assert (await store.counts()).total == 1
    await store.close()


async def test_connections_that_were_cut_are_replaced_unnoticed(postgres_url: str) -> None:
    store = await SqlStore.open(postgres_url)
    await asyncio.gather(*(store.check() for _ in range(8)))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        cut = connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert len(cut) > 1
    await asyncio.gather(*(store.check() for _ in range(8)))
    await store.close()


async def test_a_role_that_may_not_make_tables_is_told_so(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
    url = postgres_url.replace("kerneljudge@", "reader@")
    with pytest.raises(DatabaseUnusable, match="permission denied for schema public"):
        await SqlStore.open(url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP ROLE reader")
