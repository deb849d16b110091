"""API keys in the database."""

from __future__ import annotations

import sqlalchemy as sa

from kerneljudge.service.access import ApiKey, Scope
from kerneljudge.service.store.database import Database
from kerneljudge.service.store.tables import api_keys

__all__ = ["SqlKeys"]


class SqlKeys:
    """The part of `SqlStore` that keeps API keys."""

    _database: Database

    async def add_key(self, key: ApiKey) -> None:
        """Stores a new key. Raises ValueError for a name that an enabled key has."""
        values = {
            "key_id": key.key_id,
            "name": key.name,
            "digest": key.digest,
            "scopes": " ".join(sorted(key.scopes)),
            "created_at": key.created_at,
            "weight": key.weight,
            "max_unfinished": key.max_unfinished,
            "requests_per_minute": key.requests_per_minute,
            "max_priority": key.max_priority,
            "disabled_at": key.disabled_at,
        }
        named = sa.select(api_keys.c.key_id).where(
            api_keys.c.name == key.name, api_keys.c.disabled_at.is_(None)
        )

        def work(connection: sa.Connection) -> None:
            Database.one_at_a_time(connection)
            if key.disabled_at is None and connection.scalar(named) is not None:
                raise ValueError(
                    f"there is a key {key.name} already: disable it first, or choose another name"
                )
            connection.execute(sa.insert(api_keys).values(values))

        await self._database.write(work)

    async def find_key(self, digest: str) -> ApiKey | None:
        """The key of this digest, enabled or not, or None."""
        query = sa.select(api_keys).where(api_keys.c.digest == digest)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return _key(row) if row is not None else None

    async def keys(self) -> list[ApiKey]:
        """Every key, oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_key(row) for row in rows]

    async def disable_key(self, key_id: str, now: float) -> bool:
        """Makes a key useless from now on; False for an unknown one."""
        statement = (
            sa.update(api_keys)
            .where(api_keys.c.key_id == key_id)
            # One that was disabled before stays so from then on.
            .values(disabled_at=sa.func.coalesce(api_keys.c.disabled_at, now))
        )
        return await self._database.write(
            lambda connection: connection.execute(statement).rowcount == 1
        )


def _key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    values = dict(row._mapping)
    return ApiKey(**values | {"scopes": frozenset(map(Scope, values["scopes"].split()))})
