"""What a command does with the results it got: print them, write them, and pick the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from kerneljudge.api import JudgedResponse
from kerneljudge.cli.console import OUT, Usage, print_json
from kerneljudge.cli.display import show_result
from kerneljudge.cli.exits import Exit
from kerneljudge.cli.runs import Call, run_all
from kerneljudge.client import KernelJudgeClient, KernelJudgeError
from kerneljudge.schema import Verdict

__all__ = ["check_writable", "exit_code", "judge_one", "report", "response_json"]

_Judged = TypeVar("_Judged", bound=JudgedResponse)


def judge_one(client: KernelJudgeClient, call: Call[_Judged]) -> _Judged:
    """Makes one call under a progress display. Raises what the client raises."""
    ((_, answer),) = run_all(client, [call], 1, lambda result: result.verdict.value)
    if isinstance(answer, KernelJudgeError):
        raise answer
    return answer


def report(result: JudgedResponse, as_json: bool, output: Path | None) -> None:
    """Prints a result as a table or as JSON, and writes its JSON where that is asked for."""
    body = response_json(result)
    if output is not None:
        output.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(body)
    else:
        show_result(OUT, result)


def response_json(result: JudgedResponse) -> dict[str, Any]:
    """The response as the server sent it."""
    return result.model_dump(mode="json")


def exit_code(verdicts: Iterable[Verdict | None]) -> Exit:
    """The exit code for these verdicts; None stands for a failure of the server."""
    found = set(verdicts)
    if found & {None, Verdict.INTERNAL_ERROR}:
        return Exit.INFRASTRUCTURE
    return Exit.ACCEPTED if found <= {Verdict.ACCEPTED} else Exit.NOT_ACCEPTED


def check_writable(output: Path | None) -> None:
    """Raises `Usage`, before anything is judged, where the output cannot be written."""
    if output is None:
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a", encoding="utf-8").close()
    except OSError as error:
        raise Usage(f"cannot write to {output}: {error.strerror}") from None
