"""Static rules of CUDA C++ sources, on a syntax tree; nothing is compiled or executed here.

The tree decides only where it is sure. A function under `#if` or behind a macro is left to the
compiler, which reads no host code into a cubin anyway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from kerneljudge.languages.base import Refusal

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["CudaParameter", "CudaSource"]

_PARSE_SECONDS = 2.0
"""A parse that takes longer is given up: hostile text can make error recovery slow."""

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
_BLANKED = ("comment", "string_literal", "raw_string_literal", "char_literal")

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
        self._bytes = text.encode()
        self._lines = text.splitlines()
        self._root = root
        code = bytearray(self._bytes)
        for node in _nodes(root):
            if node.type in _BLANKED:
                for index in range(node.start_byte, node.end_byte):
                    if code[index] != ord("\n"):
                        code[index] = ord(" ")
        self._code = code.decode(errors="replace")
        self._code_bytes = bytes(code)

    @classmethod
    def parse(cls, text: str) -> CudaSource | None:
        """Parses `text`; None where the parser gives up, which leaves it to the compiler."""
        import tree_sitter_cuda
        from tree_sitter import Language, Parser

        encoded = text.encode()
        deadline = time.monotonic() + _PARSE_SECONDS
        parser = Parser(Language(tree_sitter_cuda.language()))
        try:
            tree = parser.parse(
                lambda offset, _: encoded[offset : offset + 65536],
                progress_callback=lambda _, __: time.monotonic() > deadline,
            )
        except ValueError:
            return None
        return cls(text, tree.root_node)

    def refuse_unless_kernels(self) -> None:
        """Raises `Refusal` for Python, `main`, host code, and a source without `__global__`."""
        python = _PYTHON.search(self._code)
        if python is not None:
            number = self._code.count("\n", 0, python.start()) + 1
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
        if "__global__" not in self._code:
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
        for node in _nodes(self._root):
            if node.type != "function_declarator" or _declared_name(node) != base:
                continue
            parameters = node.child_by_field_name("parameters")
            if parameters is None or parameters.has_error:
                return None
            declared = [
                _parameter(child)
                for child in parameters.named_children
                if child.type in ("parameter_declaration", "optional_parameter_declaration")
            ]
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
                declarator = node.child_by_field_name("declarator")
                while declarator is not None and declarator.type != "function_declarator":
                    declarator = declarator.child_by_field_name("declarator")
                name = None if declarator is None else _declared_name(declarator)
                if name is not None:
                    functions.append((node, name))
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
        start = max(self._code_bytes.rfind(mark, 0, node.start_byte) for mark in (b";", b"}", b"{"))
        head = self._code_bytes[start + 1 : end].decode(errors="replace")
        words = set(re.findall(r"\w+", head))
        return not words.isdisjoint(_ON_DEVICE) or not words.isdisjoint(self._device_macros)

    @cached_property
    def _device_macros(self) -> set[str]:
        """Macros that stand for a device qualifier, directly or through another macro."""
        macros: dict[str, set[str]] = {}
        for line in re.findall(
            r"^[ \t]*#[ \t]*define[ \t]+(.+(?:\\\n.*)*)", self._code, re.MULTILINE
        ):
            name, *words = re.findall(r"\w+", line) or [""]
            macros.setdefault(name, set()).update(words)
        device: set[str] = set(_ON_DEVICE)
        while new := {name for name, words in macros.items() if words & device} - device:
            device |= new
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
    if callee is None or callee.text is None or callee.end_byte - callee.start_byte > 100:
        return False
    name = callee.text.decode(errors="replace").removeprefix("::")
    return _RUNTIME_API.fullmatch(name) is not None


def _nodes(root: Node) -> Iterator[Node]:
    """Every node under `root`, in source order, without recursion."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(node.children))


def _declared_name(declarator: Node) -> str | None:
    node = declarator.child_by_field_name("declarator")
    while node is not None and node.type not in ("identifier", "field_identifier"):
        node = node.child_by_field_name("name") or node.child_by_field_name("declarator")
    return None if node is None or node.text is None else node.text.decode(errors="replace")


def _parameter(node: Node) -> CudaParameter:
    text = " ".join((node.text or b"").decode(errors="replace").split())
    declarator = node.child_by_field_name("declarator")
    if declarator is not None and declarator.type.removeprefix("abstract_") in (
        "pointer_declarator",
        "array_declarator",
    ):
        return CudaParameter(text, "pointer")
    if declarator is not None and declarator.type != "identifier":
        return CudaParameter(text, None)
    type_node = node.child_by_field_name("type")
    words = re.findall(r"\w+", ((type_node and type_node.text) or b"").decode(errors="replace"))
    if words[:1] == ["std"]:
        words = words[1:]
    if words == ["bool"]:
        return CudaParameter(text, "bool")
    if len(words) == 1 and words[0] in _FLOATS:
        return CudaParameter(text, "float", bfloat16="bfloat16" in words[0])
    if words and all(word in _INTEGERS for word in words):
        return CudaParameter(text, "int")
    return CudaParameter(text, None)
