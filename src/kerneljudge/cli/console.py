"""Where the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from kerneljudge.cli.exits import Exit
from kerneljudge.client import AuthenticationError, KernelJudgeError, RequestError
from kerneljudge.schema import Verdict

__all__ = ["ERR", "OUT", "Usage", "exit_on_error", "plain", "print_json", "verdict_text"]

OUT = Console(highlight=False)
"""Standard output, for results."""
ERR = Console(stderr=True, highlight=False)
"""Standard error, for progress and complaints."""

_STYLES = {
    Verdict.ACCEPTED: "bold green",
    Verdict.WRONG_ANSWER: "bold red",
    Verdict.COMPILE_ERROR: "bold yellow",
    Verdict.RUNTIME_ERROR: "bold red",
    Verdict.OUT_OF_MEMORY: "bold magenta",
    Verdict.TIMEOUT: "bold magenta",
    Verdict.OUTPUT_LIMIT: "bold magenta",
    Verdict.CRASHED: "bold red",
    Verdict.PROTOCOL_ERROR: "bold red",
    Verdict.REFUSED: "bold yellow",
    Verdict.UNSUPPORTED: "bold cyan",
    Verdict.REFERENCE_FAILED: "bold blue",
    Verdict.INTERNAL_ERROR: "bold white on red",
}


class Usage(Exception):
    """The command line asks for something impossible; the message says what to do."""


@contextlib.contextmanager
def exit_on_error(as_json: bool = False) -> Iterator[None]:
    """Turns usage errors and the client's exceptions into a message and an exit code."""
    try:
        yield
    except Usage as error:
        _complain(str(error), None, as_json)
        raise typer.Exit(Exit.USAGE) from None
    except KernelJudgeError as error:
        unknown = isinstance(error, AuthenticationError) and error.status_code == 401
        hint = " (--api-key, or KERNELJUDGE_API_KEY)" if unknown else ""
        _complain(f"{error}{hint}", error.body, as_json)
        mine = isinstance(error, RequestError)
        raise typer.Exit(Exit.USAGE if mine else Exit.INFRASTRUCTURE) from None


def _complain(message: str, body: Any, as_json: bool) -> None:
    if as_json:
        print_json(body if body is not None else {"status": "error", "error": message})
    ERR.print(Text.assemble(("Error: ", "bold red"), plain(message)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints JSON, and nothing else, on standard output."""
    OUT.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def plain(text: str) -> str:
    """Text from outside without control characters, so that it cannot command the terminal."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def verdict_text(verdict: Verdict | str) -> Text:
    """The verdict in its colour, or what stands in place of one."""
    if isinstance(verdict, Verdict):
        return Text(verdict.value, style=_STYLES[verdict])
    return Text(verdict, style="bold white on red")
