"""A server's settings, as commands take them: any of them as an option, checked by their model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kerneljudge.cli.console import Usage

if TYPE_CHECKING:
    from pydantic import ValidationError

    from kerneljudge.service.settings import Settings

__all__ = ["ANY_SETTING", "read_options", "read_settings"]

ANY_SETTING: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The `context_settings` of a command whose further options are settings; they are `ctx.args`."""


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """The settings in a command line's further options, such as `--max-queued 100`.

    Raises `Usage` for what is no setting, and for one without a value.
    """
    known = _model().model_fields
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", of which the nearest is --{near[0].replace('_', '-')}" if near else ""
            raise Usage(f"{argument!r} is no option{hint}; `kerneljudge config` lists them")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise Usage(f"{option} takes a value")
            value = following
        given[name] = value
    return given


def read_settings(given: dict[str, Any]) -> Settings:
    """The settings with these arguments, and for the rest the environment's and the file's.

    Raises `Usage`, which says which setting is wrong and where it was made.
    """
    model = _model()
    from pydantic import ValidationError

    try:
        return model(**given)
    except ValidationError as error:
        raise Usage(f"the settings are not valid: {_complaints(error, given)}") from None
    except ValueError as error:
        raise Usage(str(error)) from None


def _model() -> type[Settings]:
    try:
        from kerneljudge.service.settings import Settings
    except ModuleNotFoundError as error:
        raise Usage(
            f"serving needs the extra `server`, of which {error.name} is missing: "
            'pip install "kerneljudge[server]"'
        ) from None
    return Settings


def _complaints(error: ValidationError, given: dict[str, Any]) -> str:
    """What is wrong with each setting; the values, which may be secrets, are left out."""
    from kerneljudge.service.settings import environment_names, origins

    made = origins(given)
    names = {variable: name for name in made for variable in (name, *environment_names(name))}
    complaints = []
    for problem in error.errors(include_url=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        name = names.get(str(problem["loc"][0])) if problem["loc"] else None
        complaints.append(message if name is None else f"{name} (from {made[name]}): {message}")
    return "; ".join(complaints)
