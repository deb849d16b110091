"""`kerneljudge jobs`: the stored jobs."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, exit_on_error, print_json
from kerneljudge.cli.display import jobs_table
from kerneljudge.client import KernelJudgeClient
from kerneljudge.schema import Verdict

__all__ = ["jobs"]


def jobs(
    status: Annotated[
        list[str] | None, typer.Option(help="In this state; may be given again.")
    ] = None,
    kind: Annotated[
        Literal["evaluate", "compare"] | None, typer.Option(help="evaluate or compare.")
    ] = None,
    verdict: Annotated[
        Verdict | None, typer.Option(metavar="VERDICT", help="With this verdict.")
    ] = None,
    client_name: Annotated[
        str | None, typer.Option("--client", help="Whose share of the devices they take.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """List the stored jobs, newest first."""
    with exit_on_error(as_json), KernelJudgeClient(url, api_key=api_key) as client:
        found = list(
            client.jobs(limit, status=status, kind=kind, verdict=verdict, client=client_name)
        )
        if as_json:
            print_json([one.model_dump(mode="json") for one in found])
        else:
            OUT.print(jobs_table(found, time.time(), OUT.width))
