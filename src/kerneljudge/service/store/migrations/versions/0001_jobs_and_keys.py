"""Jobs with their requests, reports and events; API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table."""
    op.create_table(
        "jobs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("kernels", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("deadline_at", sa.Double),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_server", sa.Text),
        sa.Column("lease_token", sa.Text),
        sa.Column("lease_expires_at", sa.Double),
        sa.Column("cancel_reason", sa.Text),
        sa.Column("started_at", sa.Double),
        sa.Column("acquired_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("server", sa.Text),
        sa.Column("device", sa.Integer),
        sa.Column("device_name", sa.Text),
        sa.Column("verdict", sa.String(32)),
        sa.Column("error", sa.Text),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="jobs_pkey"),
        sa.UniqueConstraint("job_id", name="jobs_job_id_key"),
        sa.CheckConstraint(
            "(lease_token IS NOT NULL)"
            " = (state IN ('submitted', 'compiling', 'validating', 'profiling'))",
            name="jobs_lease_check",
        ),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled'))",
            name="jobs_finished_check",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_state", "jobs", ["state", "number"])
    op.create_index("jobs_key", "jobs", ["key_id", "number"])
    op.create_index("jobs_lease", "jobs", ["lease_expires_at"])
    op.create_index("jobs_finished", "jobs", ["finished_at"])
    _partial_index("jobs_unfinished", "jobs", ["key_id"], where="finished_at IS NULL")
    _partial_index(
        "jobs_idempotency",
        "jobs",
        ["client", sa.text("coalesce(key_id, '')"), "idempotency_key"],
        where="idempotency_key IS NOT NULL",
        unique=True,
    )
    op.create_table(
        "requests",
        _job_id("requests"),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="requests_pkey"),
    )
    op.create_table(
        "reports",
        _job_id("reports"),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="reports_pkey"),
    )
    op.create_table(
        "events",
        _job_id("events"),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("message", sa.Text),
        sa.PrimaryKeyConstraint("job_id", "number", name="events_pkey"),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("max_unfinished", sa.Integer),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("max_priority", sa.Integer, nullable=False),
        sa.Column("disabled_at", sa.Double),
        sa.PrimaryKeyConstraint("key_id", name="api_keys_pkey"),
        sa.UniqueConstraint("digest", name="api_keys_digest_key"),
    )
    _partial_index("api_keys_name", "api_keys", ["name"], where="disabled_at IS NULL", unique=True)


def _job_id(table: str) -> sa.Column[str]:
    return sa.Column(
        "job_id",
        sa.Text,
        sa.ForeignKey("jobs.job_id", name=f"{table}_job_id_fkey", ondelete="CASCADE"),
        nullable=False,
    )


def _partial_index(
    name: str, table: str, columns: list[str | sa.TextClause], *, where: str, unique: bool = False
) -> None:
    condition = sa.text(where)
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )
