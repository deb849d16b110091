"""`kerneljudge cancel`: ends jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from kerneljudge.cli import options
from kerneljudge.cli.console import ERR, exit_on_error, plain, print_json
from kerneljudge.client import KernelJudgeClient

__all__ = ["cancel"]


def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of the jobs.")],
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Cancel jobs, also those that run.

    Exit code: 0 cancelled, 2 there is no such job, or it has ended, 3 a failure of the server; the
    jobs after it are left as they are.
    """
    with exit_on_error(as_json), KernelJudgeClient(url, api_key=api_key) as client:
        found = []
        for job_id in job_ids:
            job = client.cancel(job_id)
            found.append(job.model_dump(mode="json"))
            when = "" if job.status == "cancelled" else " as soon as its judge lets go of it"
            ERR.print(plain(f"The job {job.job_id} is cancelled{when}."), markup=False)
        if as_json:
            print_json(found)
