"""Sources as HTML: every character is there, and none of it is markup."""

from __future__ import annotations

import html
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerneljudge.api.pages.highlight import MAX_CHARACTERS, MAX_LINES, highlight
from kerneljudge.schema import KernelType

pytestmark = pytest.mark.unit

TYPES = st.sampled_from(KernelType)
PIECES = st.sampled_from(
    [
        *('"', "'", '"""', "'''", "/*", "*/", "//", "#", "\\", "\n", "\r\n", "@a", 'R"x(', ')x"'),
        *("1'0", "0x1f", "__global__", "def f", "<script>", "&lt;", "é", "  ", "u8", "f"),
    ]
)
SOURCES = st.one_of(st.text(), st.lists(PIECES | st.text(max_size=3)).map("".join))


def text_of(lines: list[str]) -> str:
    """What a browser shows of the lines."""
    shown = html.unescape(re.sub(r"<[^>]*>", "", "\n".join(lines)))
    return re.sub(r"U\+([0-9A-F]{4})", lambda found: chr(int(found[1], 16)), shown)


@given(SOURCES, TYPES)
def test_the_text_is_the_source_and_the_only_markup_is_spans(source: str, kernel_type: KernelType):
    lines, whole = highlight(source, kernel_type)
    assert whole
    # The end of a last line, and what stands for invisible characters, are shown otherwise.
    expected = source.replace("\r\n", "\n")
    if "U+" not in source:
        assert text_of(lines) == expected.removesuffix("\n")
    markup = re.findall(r"<[^>]*>", "".join(lines))
    assert all(re.fullmatch(r'<span class="t-[a-z]+">|</span>', tag) for tag in markup)
    for line in lines:
        assert line.count("<span") == line.count("</span>")


def test_words_have_the_colours_of_their_language():
    ((python,), _) = highlight("def f(x: int): return 'a'  # b", KernelType.TRITON)
    assert '<span class="t-keyword">def</span>' in python
    assert '<span class="t-name">int</span>' in python
    assert '<span class="t-string">&#x27;a&#x27;</span>' in python
    assert '<span class="t-comment"># b</span>' in python
    ((cpp,), _) = highlight("__global__ void f(); // def", KernelType.CUDA)
    assert '<span class="t-name">__global__</span>' in cpp
    assert '<span class="t-keyword">void</span>' in cpp
    assert '<span class="t-comment">// def</span>' in cpp


def test_cuda_inside_a_string_of_python_is_coloured_as_cuda():
    lines, _ = highlight('s = """\n__global__ void f() {}\n"""', KernelType.TORCH_CUDA)
    assert lines[1].startswith('<span class="t-name">__global__</span>')


def test_characters_that_reorder_or_hide_text_are_shown_by_number():
    ((line,), _) = highlight("if x: \u202e# \u200b", KernelType.TORCH)
    assert '<span class="t-invisible">U+202E</span>' in line
    assert '<span class="t-invisible">U+200B</span>' in line
    assert "\u202e" not in line


def test_only_the_beginning_of_a_long_source_is_shown():
    lines, whole = highlight("\n" * (MAX_LINES + 5), KernelType.TORCH)
    assert (len(lines), whole) == (MAX_LINES, False)
    lines, whole = highlight("x" * (MAX_CHARACTERS + 5), KernelType.TORCH)
    assert (len(lines[0]), whole) == (MAX_CHARACTERS, False)


@pytest.mark.parametrize("kernel_type", [KernelType.TORCH, KernelType.CUDA])
@pytest.mark.parametrize(
    "piece", ["  \n", "/* ", '"', "'''", 'R"(', "\\\n", "u8", "1'", "#if 0\n", "\n.__global_"]
)
def test_no_source_takes_more_than_linear_time(kernel_type: KernelType, piece: str):
    def seconds(length: int) -> float:
        source = (piece * length)[:length]
        began = time.process_time()
        highlight(source, kernel_type)
        return time.process_time() - began

    short, long = (min(seconds(length) for _ in range(2)) for length in (2**13, 2**17))
    # 16 times the length: 16 times the time where it is linear, 256 where it is quadratic.
    assert long < 100 * short + 0.1
