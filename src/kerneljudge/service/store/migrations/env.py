"""Run by Alembic around the migrations: on the connection, and in the transaction, of whoever
opens the database."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
