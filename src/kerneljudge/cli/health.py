"""`kerneljudge health`: whether a server takes jobs, and its devices."""

from __future__ import annotations

import typer
from pydantic import ValidationError

from kerneljudge.api import HealthResponse
from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, exit_on_error, print_json
from kerneljudge.cli.display import health_table
from kerneljudge.cli.exits import Exit
from kerneljudge.client import KernelJudgeClient, ServerError

__all__ = ["health"]


def health(
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Show whether a server takes jobs, and its devices.

    Exit code: 0 it does, 3 it does not or cannot be reached.
    """
    with exit_on_error(as_json), KernelJudgeClient(url, api_key=api_key) as client:
        found = _health(client)
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            OUT.print(health_table(found))
        if found.status != "healthy":
            raise typer.Exit(Exit.INFRASTRUCTURE)


def _health(client: KernelJudgeClient) -> HealthResponse:
    try:
        return client.health_check()
    except ServerError as error:
        try:
            # A server that is not well says how it is.
            return HealthResponse.model_validate(error.body)
        except ValidationError:
            raise error from None
