"""`kerneljudge config`: the settings that a server would have here, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kerneljudge.cli.console import OUT, exit_on_error, plain, print_json
from kerneljudge.cli.settings import read_options, read_settings

__all__ = ["config"]


def config(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Print the settings that a server would have here, and where each comes from.

    Takes every option that `kerneljudge serve` takes for a setting, such as --config FILE or
    --max-queued 100. Passwords are not shown.
    """
    with exit_on_error(as_json):
        given = read_options(context.args)
        settings = read_settings(given)
        from kerneljudge.service.settings import origins

        found = {
            name: {"value": _shown(name, value), "origin": origin}
            for (name, value), origin in zip(
                settings.model_dump(mode="json").items(), origins(given).values(), strict=True
            )
        }
        if as_json:
            print_json(found)
        else:
            OUT.print(_table(found))


def _shown(name: str, value: Any) -> Any:
    return _without_password(value) if name == "database" and value is not None else value


def _without_password(url: str) -> str:
    """A database's URL without its password, wherever that stands."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    if "?" in credentials:
        return f"{scheme}://***"
    user, colon, _ = credentials.partition(":")
    address, question, query = place.partition("?")
    # Drivers also take passwords as options.
    options = "***" if "pass" in query.lower() else query
    return f"{scheme}://{user}{':***' if colon else ''}{at}{address}{question}{options}"


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, entry in found.items():
        value = entry["value"]
        if value is None:
            shown = "–"
        else:
            shown = ",".join(value) if isinstance(value, list) else f"{value}"
        table.add_row(name, Text(plain(shown)), Text(plain(str(entry["origin"]))))
    return table
