"""Where jobs and API keys are kept: a database behind SQLAlchemy, SQLite or PostgreSQL."""

from kerneljudge.service.store.protocol import JobStore, KeyStore, Renewal, StoreLimits
from kerneljudge.service.store.sql import SqlStore

__all__ = ["JobStore", "KeyStore", "Renewal", "SqlStore", "StoreLimits"]
