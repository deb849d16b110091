"""CUDA C++ as a syntax tree, and the questions that are asked of its declarations."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = [
    "ParseError",
    "body_of",
    "cast_value",
    "first_identifier",
    "function_declarator",
    "function_name",
    "nodes",
    "parameters_of",
    "parse",
    "text_of",
]

_PARSE_SECONDS = 5.0
"""A parse that takes longer is given up: hostile text can make error recovery slow."""


class ParseError(Exception):
    """The source cannot be read; the message says where or why."""


def parse(code: bytes) -> Node:
    """The root of the tree. Raises `ParseError` where that takes too long."""
    import tree_sitter_cuda
    from tree_sitter import Language, Parser

    deadline = time.monotonic() + _PARSE_SECONDS
    parser = Parser(Language(tree_sitter_cuda.language()))
    try:
        tree = parser.parse(
            lambda offset, _: code[offset : offset + 65536],
            progress_callback=lambda _, __: time.monotonic() > deadline,
        )
    except ValueError:
        raise ParseError("the source takes too long to read") from None
    return tree.root_node


def nodes(root: Node) -> Iterator[Node]:
    """Every node below and including `root`, in source order."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(node.children))


def text_of(node: Node) -> str:
    """The text of a node."""
    return (node.text or b"").decode(errors="replace")


def body_of(node: Node) -> Node:
    """The body of a node. Raises `ParseError` where it has none."""
    body = node.child_by_field_name("body")
    if body is None:
        raise ParseError(f"line {node.start_point[0] + 1} could not be read")
    return body


def function_declarator(node: Node) -> Node | None:
    """The declarator of the function that a declaration or definition is of, if it is of one."""
    found = node.child_by_field_name("declarator")
    while found is not None and found.type in ("pointer_declarator", "reference_declarator"):
        # The grammar names no field for what a reference is of.
        found = found.child_by_field_name("declarator") or found.named_children[-1]
    if found is None or found.type != "function_declarator":
        return None
    called = found.child_by_field_name("declarator")
    # `void (*pointer)(int)` declares no function.
    return None if called is not None and called.type == "parenthesized_declarator" else found


def function_name(declarator: Node) -> str:
    """A function's own name, without qualification and template arguments."""
    called = declarator.child_by_field_name("declarator")
    text = "" if called is None else text_of(called)
    if "operator" in text:
        return text[text.index("operator") :]
    return text.partition("<")[0].rpartition("::")[2].strip()


def first_identifier(declarator: Node) -> Node | None:
    """The name that a declarator declares."""
    return next((node for node in nodes(declarator) if node.type == "identifier"), None)


def parameters_of(parameters: Node) -> list[Node]:
    """The parameters in a list of them; `(void)` has none."""
    found = [child for child in parameters.named_children if "parameter" in child.type]
    if len(found) == 1 and text_of(found[0]).strip() == "void":
        return []
    return found


def cast_value(node: Node) -> Node | None:
    """What a cast is of: `(const void*)kernel`, `reinterpret_cast<void*>(kernel)`, `(kernel)`."""
    if node.type == "cast_expression":
        return node.child_by_field_name("value")
    if node.type == "parenthesized_expression" and node.named_child_count == 1:
        return node.named_children[0]
    if node.type == "call_expression":
        function = node.child_by_field_name("function")
        arguments = node.child_by_field_name("arguments")
        cast = function is not None and re.match(
            r"(reinterpret|static|const)_cast\b", text_of(function)
        )
        if cast and arguments is not None and arguments.named_child_count == 1:
            return arguments.named_children[0]
    return None
