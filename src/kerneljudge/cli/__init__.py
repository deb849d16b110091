"""The command line: one module a command.

Exit codes, the same everywhere: 0 accepted (or done), 1 judged and not accepted, 2 a mistake in
the command line or the request, 3 a failure of the server.
"""

import typer

from kerneljudge.cli.compare import compare
from kerneljudge.cli.demo import demo
from kerneljudge.cli.doctor import doctor
from kerneljudge.cli.evaluate import evaluate
from kerneljudge.cli.exits import Exit
from kerneljudge.cli.serve import serve
from kerneljudge.cli.version import version

__all__ = ["Exit", "app"]

app = typer.Typer(
    name="kerneljudge",
    help="An online judge for GPU kernels: is it right, and how fast is it?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
for command in (serve, evaluate, compare, doctor, demo, version):
    app.command()(command)
