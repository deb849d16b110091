"""The tokens of C++ text, as far as telling code from comments and literals needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Token", "blank", "code_only", "macros", "matching_parenthesis", "tokens"]

_TOKEN = re.compile(
    rb"""
      (?P<comment> //(?:\\\r?\n|[^\n])* | /\*.*?(?:\*/|\Z) )
    | (?P<raw>     (?:u8|[uUL])?R"(?P<delimiter>[^()\\\s"]{0,16})\(.*?(?:\)(?P=delimiter)"|\Z) )
    | (?P<string>  (?:u8|[uUL])?"(?:\\.|[^"\\\n])*"? )
    | (?P<char>    (?:u8|[uUL])?'(?:\\.|[^'\\\n])+'? )
    | (?P<number>  \.?[0-9](?:[eEpP][+-]|'?[\w.])* )
    | (?P<name>    [A-Za-z_]\w* )
    | (?P<space>   \s+ )
    | (?P<other>   <<<|>>>|::|\#\#|. )
    """,
    re.VERBOSE | re.DOTALL,
)
_DEFINE = re.compile(
    rb"^[ \t]*\#[ \t]*define[ \t]+(?P<name>[A-Za-z_]\w*)(?P<call>\()?(?P<rest>(?:\\\r?\n|[^\n])*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Token:
    """A stretch of text."""

    kind: str
    """`name`, `number`, `string`, `char`, `raw`, `comment`, `space` or `other`."""
    start: int
    """Its first byte."""
    text: bytes
    """What it is."""

    @property
    def end(self) -> int:
        """The byte after its last."""
        return self.start + len(self.text)

    @property
    def word(self) -> str:
        """What it is, as a string."""
        return self.text.decode(errors="replace")


def tokens(code: bytes) -> Iterator[Token]:
    """Every token, in order, without gaps."""
    for match in _TOKEN.finditer(code):
        kind = match.lastgroup or "other"
        yield Token("raw" if kind == "delimiter" else kind, match.start(), match.group())


def blank(text: bytes) -> bytes:
    """As many lines, with nothing on them but as many spaces."""
    return re.sub(rb"[^\n]", b" ", text)


def code_only(code: bytes) -> bytes:
    """`code` with comments and literals blanked, of the same length."""
    return b"".join(
        blank(token.text) if token.kind in ("comment", "raw", "string", "char") else token.text
        for token in tokens(code)
    )


def matching_parenthesis(code: bytes, start: int) -> int | None:
    """The byte after the bracket that closes the one at `start`, in text without literals."""
    depth = 0
    for at in range(start, len(code)):
        if code[at] in b"([{":
            depth += 1
        elif code[at] in b")]}":
            depth -= 1
            if depth == 0:
                return at + 1
    return None


def macros(code: bytes) -> dict[str, tuple[bool, bytes]]:
    """Macros that the text defines: name → (whether it takes arguments, what it stands for).

    `code` is without comments and literals. Of several definitions the texts are joined.
    """
    found: dict[str, tuple[bool, bytes]] = {}
    for match in _DEFINE.finditer(code):
        name = match.group("name").decode()
        takes, text = found.get(name, (False, b""))
        rest = match.group("rest")
        found[name] = (takes or match.group("call") is not None, text + b" " + rest)
    return found
