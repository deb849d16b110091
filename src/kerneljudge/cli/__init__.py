"""The command line: one module a command.

Exit codes, the same everywhere: 0 accepted (or done), 1 judged and not accepted, 2 a mistake in
the command line or the request, 3 no verdict, 130 interrupted.
"""

import inspect

import typer

from kerneljudge.cli.cancel import cancel
from kerneljudge.cli.compare import compare
from kerneljudge.cli.config import config
from kerneljudge.cli.demo import demo
from kerneljudge.cli.doctor import doctor
from kerneljudge.cli.evaluate import evaluate
from kerneljudge.cli.exits import Exit
from kerneljudge.cli.health import health
from kerneljudge.cli.job import job
from kerneljudge.cli.jobs import jobs
from kerneljudge.cli.keys import keys
from kerneljudge.cli.mcp import mcp
from kerneljudge.cli.serve import serve
from kerneljudge.cli.settings import ANY_SETTING
from kerneljudge.cli.stats import stats
from kerneljudge.cli.submit import submit
from kerneljudge.cli.version import version
from kerneljudge.cli.wait import wait
from kerneljudge.cli.watch import watch

__all__ = ["Exit", "app"]

app = typer.Typer(
    name="kerneljudge",
    help="An online judge for GPU kernels: is it right, and how fast is it?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
for plain in (
    *(evaluate, compare, submit, wait, watch, jobs, job, cancel, stats, health),
    *(doctor, demo, mcp, version),
):
    app.command()(plain)
for configured in (serve, config):
    app.command(context_settings=ANY_SETTING)(configured)
app.add_typer(keys, name="keys")
for command in (*app.registered_commands, *keys.registered_commands):
    # Typer keeps the line breaks of a docstring, at whatever width it prints.
    paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
