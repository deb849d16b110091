"""Changes to a text that keep its lines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Edits"]


@dataclass
class _Edit:
    """What takes the place of a stretch of text: new text, and stretches of the old."""

    start: int
    end: int
    parts: Sequence[bytes | tuple[int, int]]


@dataclass
class Edits:
    """A text, and what is to change in it."""

    code: bytes
    edits: list[_Edit] = field(default_factory=list)

    def replace(self, start: int, end: int, *parts: bytes | tuple[int, int]) -> None:
        """Puts `parts` in the place of a stretch; its lines stay."""
        self.edits.append(_Edit(start, end, parts))

    def text(self) -> bytes:
        """The source with the edits made; of nested ones the outer decide."""
        self.edits.sort(key=lambda edit: (edit.start, edit.end != edit.start, -edit.end))
        return self._render(0, len(self.code))

    def _render(self, start: int, end: int) -> bytes:
        out: list[bytes] = []
        at = start
        first = bisect_left(self.edits, start, key=lambda edit: edit.start)
        for edit in self.edits[first:]:
            if edit.start >= end:
                break
            if edit.start < at or edit.end > end:
                continue  # within an edit that is made, or around this stretch
            out.append(self.code[at : edit.start])
            piece = b"".join(
                part if isinstance(part, bytes) else self._render(*part) for part in edit.parts
            )
            missing = self.code.count(b"\n", edit.start, edit.end) - piece.count(b"\n")
            out.append(piece + b"\n" * missing)
            at = edit.end
        out.append(self.code[at:end])
        return b"".join(out)
