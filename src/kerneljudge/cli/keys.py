"""`kerneljudge keys`: makes, lists and disables API keys, in a server's database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from kerneljudge.cli.console import ERR, OUT, Usage, exit_on_error, plain, print_json
from kerneljudge.cli.settings import read_settings
from kerneljudge.client import ServerError

if TYPE_CHECKING:
    from kerneljudge.service.access import ApiKey
    from kerneljudge.service.store.protocol import KeyStore

__all__ = ["keys"]

Result = TypeVar("Result")

Database = Annotated[
    str | None,
    typer.Option("--database", help="SQLAlchemy URL; the server's own unless set."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with the server's settings."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]

keys = typer.Typer(
    help="Make, list and disable the API keys of a server, also while it runs.",
    no_args_is_help=True,
)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    scope: Annotated[
        str, typer.Option(help="What it may do: submit, read, admin, with commas between.")
    ] = "submit,read",
    weight: Annotated[
        float, typer.Option(help="Its share of the devices, against that of others.")
    ] = 1.0,
    max_unfinished: Annotated[
        int | None, typer.Option(min=1, help="Unfinished jobs that it may have.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests that it may send a minute.")
    ] = None,
    max_priority: Annotated[
        int, typer.Option(min=-10, max=10, help="The highest priority that it may ask for.")
    ] = 10,
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print its secret: now, and never again.

    A running server takes the key within a second. From its first key on, a server takes no
    request without one.
    """
    with exit_on_error(as_json):
        from kerneljudge.service.access import ApiKey, digest_of, new_key_id, new_secret

        if not 0.001 <= weight <= 1000:
            raise Usage("--weight must lie between 0.001 and 1000")
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise Usage("a key's name has 1 to 100 printable characters")
        secret = new_secret()
        key = ApiKey(
            key_id=new_key_id(),
            name=name,
            digest=digest_of(secret),
            scopes=_scopes(scope),
            created_at=time.time(),
            weight=weight,
            max_unfinished=max_unfinished,
            requests_per_minute=requests_per_minute,
            max_priority=max_priority,
        )
        _in_store(database, config, lambda store: store.add_key(key))
        if as_json:
            print_json({**_shown(key), "secret": secret})
        else:
            ERR.print(Text(f"{key.key_id}: the secret follows, and is not shown again."))
            OUT.print(secret, markup=False, soft_wrap=True)


@keys.command("list")
def list_(database: Database = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the keys, oldest first, without their secrets."""
    with exit_on_error(as_json):
        found = _in_store(database, config, lambda store: store.keys())
        if as_json:
            print_json({"keys": [_shown(key) for key in found]})
        else:
            OUT.print(_table(found))


@keys.command()
def disable(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    database: Database = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key useless; a running server refuses it within a second. Its jobs go on."""
    with exit_on_error(as_json):
        now = time.time()

        async def disabled(store: KeyStore) -> ApiKey:
            known = {key.key_id: key for key in await store.keys()}
            if key_id not in known or not await store.disable_key(key_id, now):
                raise Usage(f"there is no key {key_id!r}; `kerneljudge keys list` shows them")
            return known[key_id]

        key = _in_store(database, config, disabled)
        if as_json:
            print_json(_shown(key if not key.enabled else replace(key, disabled_at=now)))
        else:
            ERR.print(Text(f"{key_id} ({plain(key.name)}) is disabled."))


def _scopes(text: str) -> frozenset[Any]:
    from kerneljudge.service.access import Scope

    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in list(Scope)]
    if unknown or not names:
        raise Usage(f"--scope must name some of {', '.join(Scope)}, with commas between")
    return frozenset(map(Scope, names))


def _in_store(
    database: str | None, config: Path | None, do: Callable[[KeyStore], Awaitable[Result]]
) -> Result:
    """Does something with the keys of the database that the settings name."""
    given = {"database": database, "config": config}
    settings = read_settings({name: value for name, value in given.items() if value is not None})
    from kerneljudge.service.errors import DatabaseUnusable
    from kerneljudge.service.store.sql import SqlStore

    async def work() -> Result:
        # Beside a server: no lock of the database, no job taken over.
        store = await SqlStore.open(settings.database_url, serving=False)
        try:
            return await do(store)
        finally:
            await store.close()

    try:
        return asyncio.run(work())
    except DatabaseUnusable as error:
        raise ServerError(str(error)) from error
    except ValueError as error:
        raise Usage(str(error)) from None


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "weight": key.weight,
        "max_unfinished": key.max_unfinished,
        "requests_per_minute": key.requests_per_minute,
        "max_priority": key.max_priority,
        "created_at": key.created_at,
        "disabled_at": key.disabled_at,
    }


def _table(found: list[ApiKey]) -> Table:
    table = Table(box=None, pad_edge=False)
    # `keys disable` takes the id: on a narrow terminal the rest is wrapped, never that.
    width = max((len(key.key_id) for key in found), default=0)
    table.add_column("id", no_wrap=True, min_width=width)
    for heading in ("name", "scopes", "weight", "jobs", "a minute", "priority"):
        table.add_column(heading)
    for heading in ("made", "disabled"):
        table.add_column(heading, min_width=10)
    for key in found:
        table.add_row(
            key.key_id,
            Text(plain(key.name)),
            ",".join(sorted(key.scopes)),
            f"{key.weight:g}",
            _or_dash(key.max_unfinished),
            _or_dash(key.requests_per_minute),
            str(key.max_priority),
            _day(key.created_at),
            _day(key.disabled_at),
        )
    return table


def _or_dash(value: int | None) -> str:
    return "–" if value is None else str(value)


def _day(seconds: float | None) -> str:
    return "–" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
