"""The tables, as the latest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

__all__ = ["api_keys", "events", "jobs", "metadata", "reports", "requests"]


class _Text(TypeDecorator[str]):
    """Any text that a client may send, stored or looked for: what a database's text cannot hold,
    NUL and lone surrogates, is written as an escape."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)
"""All tables."""

jobs = Table(
    "jobs",
    metadata,
    # The order of submission. AUTOINCREMENT, so that the number of a removed job never returns.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("job_id", _Text, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("kernels", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16)),
    Column("client", _Text, nullable=False),
    Column("key_id", _Text),
    Column("priority", Integer, nullable=False),
    Column("deadline_at", Double),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("idempotency_key", _Text),
    Column("attempts", Integer, nullable=False),
    Column("lease_server", _Text),
    Column("lease_token", _Text),
    Column("lease_expires_at", Double),
    # Why its end was asked for, if it was.
    Column("cancel_reason", _Text),
    Column("started_at", Double),
    Column("acquired_at", Double),
    Column("finished_at", Double),
    Column("server", _Text),
    Column("device", Integer),
    Column("device_name", _Text),
    Column("verdict", String(32)),
    Column("error", _Text),
    Column("last_event", Integer, nullable=False),
    CheckConstraint(
        "(lease_token IS NOT NULL)"
        " = (state IN ('submitted', 'compiling', 'validating', 'profiling'))",
        name="lease",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))",
        name="finished",
    ),
    # The queue in its order, and listings by state.
    Index("jobs_state", "state", "number"),
    # The listing of one key.
    Index("jobs_key", "key_id", "number"),
    Index("jobs_lease", "lease_expires_at"),
    Index("jobs_finished", "finished_at"),
    # The quota of one key.
    Index(
        "jobs_unfinished",
        "key_id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    # Without keys every key_id is NULL, which a unique index takes for different each time.
    Index(
        "jobs_idempotency",
        "client",
        text("coalesce(key_id, '')"),
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)
"""One row a job: what schedules and lists it."""

requests = Table(
    "requests",
    metadata,
    Column("job_id", ForeignKey(jobs.c.job_id, ondelete="CASCADE"), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""What was asked for."""

reports = Table(
    "reports",
    metadata,
    Column("job_id", ForeignKey(jobs.c.job_id, ondelete="CASCADE"), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
"""The last report of each job that has one."""

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey(jobs.c.job_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("phase", String(16)),
    Column("message", _Text),
)
"""What happened to each job."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", _Text, primary_key=True),
    Column("name", _Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("max_unfinished", Integer),
    Column("requests_per_minute", Integer),
    Column("max_priority", Integer, nullable=False),
    Column("disabled_at", Double),
    Index(
        "api_keys_name",
        "name",
        unique=True,
        sqlite_where=text("disabled_at IS NULL"),
        postgresql_where=text("disabled_at IS NULL"),
    ),
)
"""API keys, without their secrets."""
