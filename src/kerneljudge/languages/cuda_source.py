"""Static rules of CUDA C++ sources, on a syntax tree; nothing is compiled or executed here.

The tree decides only where it is sure. A function under `#if` or behind a macro is left to the
compiler, which reads no host code into a cubin anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from kerneljudge.building.lexer import code_only, macros
from kerneljudge.building.syntax import (
    ParseError,
    function_declarator,
    function_name,
    nodes,
    parameters_of,
    parse,
    text_of,
)
from kerneljudge.languages.base import Refusal

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["CudaParameter", "CudaSource"]

_PYTHON = re.compile(
    r"^[ \t]*(import[ \t]+[A-Za-z_][\w.]*([ \t]+as[ \t]+\w+)?([ \t]*,[ \t]*\w+)*"
    r"|from[ \t]+[\w.]+[ \t]+import\b[^;\n]*"
    r"|def[ \t]+\w+[ \t]*\([^;{}\n]*\)[^;{}\n]*:"
    r"|@\w[\w.]*(\([^;\n]*\))?)[ \t]*$",
    re.MULTILINE,
)
_RUNTIME_API = re.compile(r"cuda[A-Z]\w*|cu(Launch|Mem|Module|Stream|Ctx|Init)\w*")
_ON_DEVICE = ("__global__", "__device__")
_CONDITIONAL = ("preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif")

# The fundamental types and the fixed-width names of C++ and CUDA, without qualifiers.
_FLOATS = frozenset({"float", "double", "half", "__half", "__nv_bfloat16", "nv_bfloat16"})
_INTEGERS = frozenset(
    {
        *("char", "short", "int", "long", "signed", "unsigned", "size_t", "ptrdiff_t"),
        *("int8_t", "int16_t", "int32_t", "int64_t"),
        *("uint8_t", "uint16_t", "uint32_t", "uint64_t"),
    }
)


@dataclass(frozen=True)
class CudaParameter:
    """A parameter of a kernel, as the source declares it."""

    text: str
    """The declaration, as in `const float* x`."""
    kind: Literal["pointer", "float", "int", "bool"] | None
    """What it takes; None where the declaration alone does not tell."""
    bfloat16: bool = False
    """Whether it is a `__nv_bfloat16`, which is as wide as a half."""


class CudaSource:
    """A CUDA C++ source as a syntax tree, with the questions that the rules ask of it."""

    def __init__(self, text: str, root: Node) -> None:
        self._lines = text.split("\n")
        self._root = root
        # Without comments and literals, and of the same length.
        self._code = code_only(text.encode())

    @classmethod
    def parse(cls, text: str) -> CudaSource | None:
        """Parses `text`; None where the parser gives up, which leaves it to the compiler."""
        try:
            return cls(text, parse(text.encode()))
        except ParseError:
            return None

    def refuse_unless_kernels(self) -> None:
        """Raises `Refusal` for Python, `main`, host code, and a source without `__global__`."""
        code = self._code.decode(errors="replace")
        python = _PYTHON.search(code)
        if python is not None:
            number = code.count("\n", 0, python.start()) + 1
            raise Refusal(
                f"Python code mixed in: {self._line(number)}. This is C/C++, not Python",
                "Leave only CUDA C++. Submit a Python source that compiles CUDA with load_inline "
                "as kernel type `torch_cuda`, one that mixes kernels as `multi_kernel`.",
            )
        functions, host_uses = self._functions()
        for node, name in functions:
            if name == "main" and _at_global_scope(node):
                raise Refusal(
                    f"Don't include main: {self._line(node.start_point[0] + 1)}",
                    "Remove main: the judge launches the kernel as the contract says.",
                )
        for node in host_uses:
            if not self._on_device(node):
                raise Refusal(
                    f"Host code, only kernel code: {self._line(node.start_point[0] + 1)}",
                    "Remove functions that launch kernels or call the CUDA runtime: the judge "
                    "allocates the tensors, and launches the kernel as the contract says.",
                )
        if "__global__" not in code:
            plain = ", ".join(dict.fromkeys(name for _, name in functions))
            raise Refusal(
                "No __global__ functions found",
                "A kernel must be __global__: put the qualifier before its return type"
                + (f" (the source defines {plain})." if plain else "."),
            )

    def parameters(self, kernel_name: str, count: int) -> list[CudaParameter] | None:
        """The declared parameters of a kernel; None where they are not plain from the source.

        `kernel_name` may have template arguments and namespaces, which are left out of account;
        `count` is how many parameters there are.
        """
        base = kernel_name.partition("<")[0].rpartition("::")[2].strip()
        found: list[list[CudaParameter]] = []
        for node in nodes(self._root):
            if node.type != "function_declarator" or function_name(node) != base:
                continue
            parameters = node.child_by_field_name("parameters")
            if parameters is None or parameters.has_error:
                return None
            declared = [_parameter(child) for child in parameters_of(parameters)]
            if len(declared) == count and declared not in found:
                found.append(declared)
        return found[0] if len(found) == 1 else None

    def _functions(self) -> tuple[list[tuple[Node, str]], list[Node]]:
        """Function definitions with their names, and those that use the host's CUDA.

        That is: that launch a kernel or call the runtime or driver. Code under `#if` is left out.
        """
        functions: list[tuple[Node, str]] = []
        host_uses: list[Node] = []
        pending: list[tuple[Node, Node | None]] = [(self._root, None)]
        while pending:
            node, function = pending.pop()
            if node.type in _CONDITIONAL:
                continue
            if node.type == "function_definition":
                function = node
                declarator = function_declarator(node)
                if declarator is not None:
                    functions.append((node, function_name(declarator)))
            elif function is not None and _is_host_api(node) and function not in host_uses[-1:]:
                host_uses.append(function)
            pending.extend((child, function) for child in reversed(node.children))
        return functions, host_uses

    def _on_device(self, node: Node) -> bool:
        """Whether a function's head has a device qualifier, plainly or through a macro.

        The head is taken from the text, back to the last statement or block, because the grammar
        cuts it at attributes that it does not know.
        """
        body = node.child_by_field_name("body")
        end = node.end_byte if body is None else body.start_byte
        start = max(self._code.rfind(mark, 0, node.start_byte) for mark in (b";", b"}", b"{"))
        head = self._code[start + 1 : end].decode(errors="replace")
        return not self._on_device_words.isdisjoint(re.findall(r"\w+", head))

    @cached_property
    def _on_device_words(self) -> set[str]:
        """The device qualifiers, and macros that stand for one, also through another macro."""
        used_by: dict[str, list[str]] = {}
        for name, (_, text) in macros(self._code).items():
            for word in set(re.findall(r"\w+", text.decode(errors="replace"))):
                used_by.setdefault(word, []).append(name)
        device = set(_ON_DEVICE)
        pending = list(_ON_DEVICE)
        while pending:
            new = set(used_by.get(pending.pop(), ())) - device
            device |= new
            pending.extend(new)
        return device

    def _line(self, number: int) -> str:
        text = self._lines[number - 1].strip() if number <= len(self._lines) else ""
        return f"line {number}: {text if len(text) <= 80 else text[:77] + '...'}"


def _at_global_scope(node: Node) -> bool:
    parent = node.parent
    while parent is not None and parent.type in ("declaration_list", "linkage_specification"):
        parent = parent.parent
    return parent is not None and parent.type == "translation_unit"


def _is_host_api(node: Node) -> bool:
    if node.type == "kernel_call_syntax":
        return True
    if node.type != "call_expression":
        return False
    callee = node.child_by_field_name("function")
    if callee is None or callee.end_byte - callee.start_byte > 100:
        return False
    return _RUNTIME_API.fullmatch(text_of(callee).removeprefix("::")) is not None


def _parameter(node: Node) -> CudaParameter:
    text = " ".join(text_of(node).split())
    declarator = node.child_by_field_name("declarator")
    if declarator is not None and declarator.type.removeprefix("abstract_") in (
        "pointer_declarator",
        "array_declarator",
    ):
        return CudaParameter(text, "pointer")
    if declarator is not None and declarator.type != "identifier":
        return CudaParameter(text, None)
    type_node = node.child_by_field_name("type")
    words = [] if type_node is None else re.findall(r"\w+", text_of(type_node))
    if words[:1] == ["std"]:
        words = words[1:]
    if words == ["bool"]:
        return CudaParameter(text, "bool")
    if len(words) == 1 and words[0] in _FLOATS:
        return CudaParameter(text, "float", bfloat16="bfloat16" in words[0])
    if words and all(word in _INTEGERS for word in words):
        return CudaParameter(text, "int")
    return CudaParameter(text, None)
