"""`kerneljudge stats`: what a server has done since it started."""

from __future__ import annotations

from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, exit_on_error, print_json
from kerneljudge.cli.display import groups
from kerneljudge.client import KernelJudgeClient

__all__ = ["stats"]


def stats(
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a server has done since it started: counts and times."""
    with exit_on_error(as_json):
        with KernelJudgeClient(url, api_key=api_key) as client:
            found = client.get_stats().model_dump(mode="json")
        if as_json:
            print_json(found)
        else:
            OUT.print(groups(found))
