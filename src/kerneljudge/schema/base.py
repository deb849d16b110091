"""The common base of every model that crosses a process or the network."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Closed", "Open"]


class Closed(BaseModel):
    """A model whose docstrings under its fields become JSON Schema descriptions.

    Unknown keys are errors, so that a misspelt option is never silently dropped.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Open(BaseModel):
    """Like `Closed`, but unknown keys are kept and returned as they came."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
