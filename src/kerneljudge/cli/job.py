"""`kerneljudge job`: one job as it stands."""

from __future__ import annotations

from kerneljudge.api import JudgedResponse
from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, exit_on_error, print_json
from kerneljudge.cli.display import job_table, show_result
from kerneljudge.client import KernelJudgeClient

__all__ = ["job"]


def job(
    job_id: options.JobId,
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a job as it stands, and its result once it has ended.

    Exit code: 0 whatever became of it, 2 a mistake in the command, or no such job, 3 a failure of
    the server.
    """
    with exit_on_error(as_json):
        with KernelJudgeClient(url, api_key=api_key) as client:
            found = client.get_job_status(job_id)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        OUT.print(job_table(found))
        if isinstance(found.result, JudgedResponse):
            OUT.print()
            show_result(OUT, found.result)
