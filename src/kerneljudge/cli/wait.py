"""`kerneljudge wait`: the result of a job, once it has one."""

from __future__ import annotations

from typing import Annotated

import typer

from kerneljudge.cli import options
from kerneljudge.cli.console import exit_on_error
from kerneljudge.cli.results import check_writable, exit_code, report
from kerneljudge.client import KernelJudgeClient

__all__ = ["wait"]


def wait(
    job_id: options.JobId,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait at most; without end if unset.")
    ] = None,
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Wait until a job has ended, and print its result.

    The job goes on where this command is interrupted. Exit code: 0 accepted, 1 judged and not
    accepted, 2 a mistake in the command, 3 no verdict, or none yet.
    """
    with exit_on_error(as_json):
        check_writable(output)
        with KernelJudgeClient(url, api_key=api_key) as client:
            result = client.wait(job_id, timeout)
        report(result, as_json, output)
        raise typer.Exit(exit_code([result]))
