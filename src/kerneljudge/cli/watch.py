"""`kerneljudge watch`: the phases of a job as it goes through them."""

from __future__ import annotations

import json

import typer
from rich.text import Text

from kerneljudge.api import JobEventResponse, JobResponse
from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, exit_on_error
from kerneljudge.cli.display import show_result
from kerneljudge.cli.results import exit_code
from kerneljudge.cli.runs import describe_event
from kerneljudge.client import KernelJudgeClient, result_of

__all__ = ["watch"]


def watch(
    job_id: options.JobId,
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what has happened to a job and what happens, until it ends; then its result.

    With --json, a line of JSON an event, and at last the job. The job goes on where this command
    is interrupted. Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command, 3
    no verdict.
    """
    with exit_on_error(as_json), KernelJudgeClient(url, api_key=api_key) as client:
        start: float | None = None
        for event in client.stream(job_id):
            if as_json:
                line = json.dumps(event.model_dump(mode="json"), ensure_ascii=False)
                OUT.file.write(line + "\n")
                OUT.file.flush()
            elif isinstance(event, JobEventResponse):
                start = event.at if start is None else start
                OUT.print(Text(f"{event.at - start:8.2f} s  {describe_event(event)}"))
            if isinstance(event, JobResponse):
                result = result_of(event)
                if not as_json:
                    show_result(OUT, result)
                raise typer.Exit(exit_code([result]))
