"""What a command does with the results it got: print them, write them, and pick the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kerneljudge.cli.console import OUT, Usage, print_json
from kerneljudge.cli.display import show_result
from kerneljudge.cli.exits import Exit
from kerneljudge.client import Judged, KernelJudgeError, Outcome, RequestError
from kerneljudge.schema import Verdict

__all__ = ["check_writable", "exit_code", "report", "response_json"]


def report(result: Judged, as_json: bool, output: Path | None) -> None:
    """Prints a result as a table or as JSON, and writes its JSON where that is asked for."""
    body = response_json(result)
    if output is not None:
        output.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(body)
    else:
        show_result(OUT, result)


def response_json(result: Judged) -> dict[str, Any]:
    """The response as the server sent it."""
    return result.model_dump(mode="json")


def exit_code(outcomes: Iterable[Outcome]) -> Exit:
    """The exit code for these outcomes.

    A request that the server did not take is a kernel that is not accepted, unless none was taken.
    """
    found = list(outcomes)
    errors = [outcome for outcome in found if isinstance(outcome, KernelJudgeError)]
    if any(not isinstance(error, RequestError) for error in errors):
        return Exit.INFRASTRUCTURE
    if errors:
        return Exit.USAGE if len(errors) == len(found) else Exit.NOT_ACCEPTED
    verdicts = {outcome.verdict for outcome in found if not isinstance(outcome, KernelJudgeError)}
    return Exit.ACCEPTED if verdicts <= {Verdict.ACCEPTED} else Exit.NOT_ACCEPTED


def check_writable(output: Path | None) -> None:
    """Raises `Usage`, before anything is judged, where the output cannot be written."""
    if output is None:
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a", encoding="utf-8").close()
    except OSError as error:
        raise Usage(f"cannot write to {output}: {error.strerror}") from None
