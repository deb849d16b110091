"""Submitted source as lines of HTML, coloured.

The source is hostile and this is a trusted process, so the tokens are found in one pass whose time
is linear in the source, whatever it holds: no alternative below gives back what it has matched.
"""

from __future__ import annotations

import builtins
import html
import keyword
import re
from collections.abc import Iterator
from typing import Final

from kerneljudge.schema import KernelType

__all__ = ["MAX_CHARACTERS", "MAX_LINES", "highlight"]

MAX_CHARACTERS = 256 * 1024
"""How much of a source is shown."""
MAX_LINES = 5000
"""How many of its lines are."""

_QUOTED: Final = r"""
    "(?:[^"\\\n]|\\[\s\S])*+"?+ | '(?:[^'\\\n]|\\[\s\S])*+'?+
"""
_PYTHON: Final = re.compile(
    rf"""
    (?P<comment>\#[^\n]*+)
    | (?P<string>[rbfutRBFUT]{{0,3}}(?:
        \"\"\"(?:[^"\\]|\\[\s\S]|"(?!""))*+(?:\"\"\")?+
        | '''(?:[^'\\]|\\[\s\S]|'(?!''))*+(?:''')?+
        | {_QUOTED}))
    | (?P<directive>^[ \t]*+@[\w.]++)
    | (?P<number>\d[\w.]*+)
    | (?P<word>[^\W\d]\w*+)
    """,
    re.VERBOSE | re.MULTILINE,
)
_CPP: Final = re.compile(
    rf"""
    (?P<comment>//[^\n]*+ | /\*(?:[^*]|\*(?!/))*+(?:\*/)?+)
    | (?P<string>
        (?:u8|[uUL])?+R"(?P<delimiter>[^()\\\s"]{{0,16}}+)\((?:(?!\)(?P=delimiter)")[\s\S])*+
            (?:\)(?P=delimiter)")?+
        | (?:u8|[uUL])?(?:{_QUOTED}))
    | (?P<directive>^[ \t]*+\#[ \t]*+\w*+)
    | (?P<number>\d(?:[\w.]|'\w)*+)
    | (?P<word>[^\W\d]\w*+)
    """,
    re.VERBOSE | re.MULTILINE,
)

_PYTHON_WORDS: Final = {
    **dict.fromkeys((name for name in dir(builtins) if name.islower()), "name"),
    "self": "name",
    **dict.fromkeys(keyword.kwlist, "keyword"),
}
_CPP_NAMES: Final = """
__global__ __device__ __host__ __shared__ __constant__ __managed__ __launch_bounds__ __restrict__
__forceinline__ __noinline__ __grid_constant__ __syncthreads __syncwarp threadIdx blockIdx blockDim
gridDim warpSize
"""
_CPP_KEYWORDS: Final = """
alignas alignof asm auto bool break case catch char char16_t char32_t char8_t class concept const
consteval constexpr constinit const_cast continue decltype default delete do double dynamic_cast
else enum explicit export extern false float for friend goto if inline int long mutable namespace
new noexcept nullptr operator private protected public register reinterpret_cast requires return
short signed sizeof static static_assert static_cast struct switch template this thread_local throw
true try typedef typeid typename union unsigned using virtual void volatile wchar_t while
"""
_CPP_WORDS: Final = {
    **dict.fromkeys(_CPP_NAMES.split(), "name"),
    **dict.fromkeys(_CPP_KEYWORDS.split(), "keyword"),
}

# What tells that a string of a Python source is a source itself.
_EMBEDDED: Final = re.compile(r"\n.*(?:__global__|#include)")

# Characters that a browser does not show, or that reorder those around them: shown by number.
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def highlight(source: str, kernel_type: KernelType) -> tuple[list[str], bool]:
    """The lines of a source as HTML, which is safe to show, and whether they are all of it."""
    shown = source[:MAX_CHARACTERS].replace("\r\n", "\n")
    lines: list[list[str]] = [[]]
    for kind, text in _tokens(shown, cpp=kernel_type is KernelType.CUDA):
        first, *more = text.split("\n")
        lines[-1].append(_html(kind, first))
        lines += [[_html(kind, part)] for part in more]
    if len(lines) > 1 and lines[-1] == [""]:
        lines.pop()  # the source ends with a newline
    whole = len(source) <= MAX_CHARACTERS and len(lines) <= MAX_LINES
    return ["".join(parts) for parts in lines[:MAX_LINES]], whole


def _tokens(source: str, cpp: bool) -> Iterator[tuple[str | None, str]]:
    """The whole source in pieces, each with its kind, if it has one."""
    words = _CPP_WORDS if cpp else _PYTHON_WORDS
    end = 0
    for match in (_CPP if cpp else _PYTHON).finditer(source):
        kind = match.lastgroup
        if kind == "word":
            kind = words.get(match[0])
        if kind is None:
            continue  # it goes with the next piece
        if match.start() > end:
            yield None, source[end : match.start()]
        if kind == "string" and not cpp and _EMBEDDED.search(match[0]):
            yield from _tokens(match[0], cpp=True)
        else:
            yield kind, match[0]
        end = match.end()
    yield None, source[end:]


def _html(kind: str | None, text: str) -> str:
    text = _INVISIBLE.sub(_by_number, html.escape(text))
    return f'<span class="t-{kind}">{text}</span>' if kind is not None and text else text


def _by_number(character: re.Match[str]) -> str:
    return f'<span class="t-invisible">U+{ord(character[0]):04X}</span>'
