"""API keys in memory, for tests of what stands around their store."""

from __future__ import annotations

from dataclasses import replace

from kerneljudge.service.access import ApiKey, Scope, digest_of


class MemoryKeys:
    """A `KeyStore` that counts how often it is read."""

    def __init__(self, *keys: ApiKey) -> None:
        self._keys = {key.key_id: key for key in keys}
        self.reads = 0

    async def add_key(self, key: ApiKey) -> None:
        if any(known.name == key.name and known.enabled for known in self._keys.values()):
            raise ValueError(f"an enabled key has the name {key.name!r}")
        self._keys[key.key_id] = key

    async def find_key(self, digest: str) -> ApiKey | None:
        return next((key for key in self._keys.values() if key.digest == digest), None)

    async def keys(self) -> list[ApiKey]:
        self.reads += 1
        return list(self._keys.values())

    async def disable_key(self, key_id: str, now: float) -> bool:
        if key_id not in self._keys:
            return False
        self._keys[key_id] = replace(self._keys[key_id], disabled_at=now)
        return True


def api_key(name: str, *scopes: Scope, secret: str | None = None, **fields: object) -> ApiKey:
    """A key whose id is `key_` and its name, and whose secret is `secret-` and its name."""
    return ApiKey(
        key_id=f"key_{name}",
        name=name,
        digest=digest_of(secret or f"secret-{name}"),
        scopes=frozenset(scopes or (Scope.SUBMIT, Scope.READ)),
        created_at=1.0,
        **fields,  # type: ignore[arg-type]
    )
