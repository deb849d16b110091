"""Static rules of Python sources: what a submission may hold, found without executing it.

The rules look at the syntax tree, never at the text, so that comments and docstrings may say
anything. They are about what kind of source a kernel type takes, not about safety: the sandbox
answers for that.
"""

from __future__ import annotations

import ast
import re
import threading
from collections import deque
from collections.abc import Iterator
from functools import cached_property

from kerneljudge.languages.base import Refusal

__all__ = ["PythonSource", "refuse_unless_definitions"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

_EXTENSION_BUILDERS = frozenset({"load_inline", "load"})
_EXTENSION_MODULE = "torch.utils.cpp_extension"
# Calls that make a kernel out of a string: a function that reaches one defines, it does not run.
_BUILDERS = frozenset({"load_inline", "RawKernel", "RawModule", "ElementwiseKernel", "jit"})
# What gives a tensor of sample data. A module-level call that takes one is a run, not a
# definition; `tensor`, `arange` and the like are left out, since tables are made of them.
_TENSOR_FACTORIES = frozenset(
    {"empty", "normal", "ones", "rand", "randint", "randn", "randperm", "zeros"}
)
_TENSOR_LIBRARIES = frozenset({"torch", "cupy", "numpy"})
# CPython before 3.13 counts the depth of a tree in one place for all threads, and raises
# SystemError where two build trees at once (github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()


class PythonSource:
    """A submitted Python source as a syntax tree, with the questions that the rules ask of it.

    The tree is walked without recursion, so that its depth, which the submitter chooses, cannot
    exhaust the stack.
    """

    def __init__(self, text: str, tree: ast.Module) -> None:
        self.text = text
        self.tree = tree

    @classmethod
    def parse(cls, text: str) -> PythonSource | None:
        """Parses `text`; None where it is no Python.

        A source that does not parse breaks no rule of its kernel type: executing it says what is
        wrong, with line and caret, and that is a compile error.
        """
        try:
            with _PARSING:
                return cls(text, ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # The last two are how CPython answers nesting that is too deep for its parser.
            return None

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node, in no order that matters."""
        return list(ast.walk(self.tree))

    @cached_property
    def lines(self) -> list[str]:
        """The source's lines, as Python counts them."""
        return re.split(r"\r\n|\r|\n", self.text)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Imported name → what it stands for, as in `{"nn": "torch.nn", "tl": …}`."""
        aliases: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname:
                        aliases[alias.asname] = alias.name
                    else:
                        root = alias.name.partition(".")[0]
                        aliases[root] = root
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return aliases

    @cached_property
    def imports(self) -> dict[str, ast.stmt]:
        """Top-level package → the first statement that imports it, anywhere in the source."""
        found: dict[str, ast.stmt] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.setdefault(alias.name.partition(".")[0], node)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.setdefault(node.module.partition(".")[0], node)
        return found

    @cached_property
    def functions(self) -> dict[str, _Function]:
        """Functions defined at module level, also under `if` or `try`, in source order."""
        return {
            node.name: node
            for node in self.module_level()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """Classes defined at module level, likewise."""
        return {node.name: node for node in self.module_level() if isinstance(node, ast.ClassDef)}

    @cached_property
    def models(self) -> dict[str, ast.ClassDef]:
        """The classes that are models: modules of torch.nn, or anything with a `forward`."""
        models: dict[str, ast.ClassDef] = {}
        for name, node in self.classes.items():
            if (
                name in ("Model", "ModelNew")
                or self.is_module_class(node)
                or any(isinstance(base, ast.Name) and base.id in models for base in node.bases)
                or any(
                    isinstance(item, ast.FunctionDef) and item.name == "forward"
                    for item in node.body
                )
            ):
                models[name] = node
        return models

    @cached_property
    def jit_functions(self) -> dict[str, _Function]:
        """Module-level functions under a decorator named `jit`, in source order."""
        return {
            name: node
            for name, node in self.functions.items()
            if any(
                self.last(decorator.func if isinstance(decorator, ast.Call) else decorator) == "jit"
                for decorator in node.decorator_list
            )
        }

    @cached_property
    def building_functions(self) -> set[str]:
        """Module-level functions that build a kernel, themselves or through one they call."""
        callers: dict[str, set[str]] = {}
        building: set[str] = set()
        for name, function in self.functions.items():
            for node in ast.walk(function):
                if not isinstance(node, ast.Call):
                    continue
                if self.is_extension_build(node) or self.last(node.func) in _BUILDERS:
                    building.add(name)
                elif isinstance(node.func, ast.Name):
                    callers.setdefault(node.func.id, set()).add(name)
        pending = list(building)
        while pending:
            new = callers.get(pending.pop(), set()) - building
            building |= new
            pending.extend(new)
        return building

    def line(self, node: ast.AST) -> str:
        """Where a node is, for a message: `line 3: model = Model()`."""
        number: int = getattr(node, "lineno", 1)
        text = self.lines[number - 1].strip() if number <= len(self.lines) else ""
        return f"line {number}: {text if len(text) <= 80 else text[:77] + '...'}"

    def path(self, node: ast.AST) -> str | None:
        """The dotted name of an expression with its imports resolved, or None.

        `nn.Module` under `import torch.nn as nn` is `torch.nn.Module`.
        """
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        parts.append(self.aliases.get(node.id, node.id))
        return ".".join(reversed(parts))

    def last(self, node: ast.AST) -> str | None:
        """The last part of `path`: `jit` for `triton.jit`, `tr.jit`, and `jit` alone."""
        path = self.path(node)
        return None if path is None else path.rpartition(".")[2]

    def is_module_class(self, node: ast.ClassDef) -> bool:
        """Whether a class names a base of torch.nn, such as `nn.Module` or `nn.Sequential`."""
        for base in node.bases:
            path = self.path(base) or ""
            if path.rpartition(".")[2] == "Module" or (
                path.startswith("torch.nn.") and not path.startswith("torch.nn.functional.")
            ):
                return True
        return False

    def is_extension_build(self, node: ast.AST) -> bool:
        """Whether a node is a call of torch's `load_inline` or `load`, under any alias."""
        if not isinstance(node, ast.Call):
            return False
        path = self.path(node.func) or ""
        owner, _, name = path.rpartition(".")
        return name == "load_inline" or (
            name in _EXTENSION_BUILDERS
            and (owner == _EXTENSION_MODULE or owner.rpartition(".")[2] == "cpp_extension")
        )

    @cached_property
    def extension_builds(self) -> list[ast.Call]:
        """Every call of `load_inline` or `load`, anywhere, in source order."""
        calls = [
            node
            for node in self.nodes
            if isinstance(node, ast.Call) and self.is_extension_build(node)
        ]
        return sorted(calls, key=lambda node: (node.lineno, node.col_offset))

    def strings_with(self, text: str) -> list[ast.Constant]:
        """String constants that contain `text`; docstrings and other bare strings do not count."""
        bare = {
            id(node.value)
            for node in self.nodes
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found = [
            node
            for node in self.nodes
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and text in node.value
            and id(node) not in bare
        ]
        return sorted(found, key=lambda node: (node.lineno, node.col_offset))

    def mentions(self, name: str) -> bool:
        """Whether an identifier, attribute or imported name equals `name`, anywhere."""
        for node in self.nodes:
            if isinstance(node, ast.Name) and node.id == name:
                return True
            if isinstance(node, ast.Attribute) and node.attr == name:
                return True
            if isinstance(node, ast.alias) and node.name.rpartition(".")[2] == name:
                return True
        return False

    def relative_import(self) -> ast.ImportFrom | None:
        """The first import that is relative to a package, or None."""
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom) and node.level:
                return node
        return None

    def main_block(self) -> ast.If | None:
        """The first `if __name__ == "__main__"` block, or None."""
        for node in self.module_level():
            if isinstance(node, ast.If) and _asks_for_main(node.test):
                return node
        return None

    def launch(self) -> ast.Call | None:
        """The first launch of a jit function of the source, `kernel[grid](...)`, or None.

        Launches inside jit functions, which Triton reads, do not count.
        """
        kernels = set(self.jit_functions)
        for node in self.module_level():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                call: ast.AST = node.value
                while isinstance(call, ast.Call):
                    if self.last(call.func) == "jit":
                        kernels |= _assigned(node)
                    call = call.func
        read_by_triton = {id(node) for node in self.jit_functions.values()}
        pending: list[ast.AST] = [self.tree]
        while pending:
            node = pending.pop()
            if id(node) in read_by_triton:
                continue
            if isinstance(node, ast.Call):
                callee = node.func
                if isinstance(callee, ast.Attribute) and callee.attr == "run":
                    callee = callee.value
                    launched = isinstance(callee, ast.Name)
                else:
                    launched = isinstance(callee, ast.Subscript)
                if launched and _root(callee) in kernels:
                    return node
            pending.extend(reversed(list(ast.iter_child_nodes(node))))
        return None

    def module_level(self) -> Iterator[ast.AST]:
        """Every node that executes on import, in source order.

        Functions and classes come as one node each, without their decorators, defaults and
        bodies: those define, and what they call is no execution code.
        """
        pending: deque[ast.AST] = deque(self.tree.body)
        while pending:
            node = pending.popleft()
            yield node
            if not isinstance(node, _SCOPES):
                pending.extendleft(reversed(list(ast.iter_child_nodes(node))))

    def execution(self) -> tuple[ast.AST, str] | None:
        """The first module-level statement that runs a kernel or model, and the manual's word.

        That is: instantiating a model of the source; launching or calling what the source
        defines, or what `load_inline` gave it, with tensors; and a bare call of a function of
        the source. Definitions are none of these: constants and tables, also where a function
        of the source computes them, decorators, library calls, and functions that build.
        """
        extensions: set[str] = set()
        raw_kernels: set[str] = set()
        own = set(self.functions) | set(self.classes)
        tensors: set[str] = set()
        for node in self.module_level():
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                names = _assigned(node)
                if self._gives_tensor(node.value, tensors):
                    tensors |= names
                if self.is_extension_build(node.value):
                    extensions |= names
                elif isinstance(node.value, ast.Call):
                    if self.last(node.value.func) == "RawKernel":
                        raw_kernels |= names
                    elif _root(node.value.func) in own:
                        own |= names
            elif isinstance(node, ast.Expr):
                call = node.value
                if (
                    isinstance(call, ast.Call)
                    and self.last(call.func) == "print"
                    and call.args
                    and isinstance(call.args[0], ast.Call)
                ):
                    call = call.args[0]
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and call.func.id in self.functions
                    and call.func.id not in self.building_functions
                ):
                    return call, "execute"
            if not isinstance(node, ast.Call):
                continue
            callee = node.func
            if isinstance(callee, ast.Name) and callee.id in self.models:
                return node, "instantiate"
            if isinstance(callee, ast.Name) and callee.id in raw_kernels:
                return node, "execute"
            if isinstance(callee, ast.Attribute) and (
                _root(callee) in extensions or self.is_extension_build(callee.value)
            ):
                return node, "execute"
            if _root(callee) in own and (
                isinstance(callee, ast.Subscript)
                or any(
                    self._gives_tensor(argument, tensors)
                    for argument in [*node.args, *(word.value for word in node.keywords)]
                )
            ):
                return node, "execute"
        return None

    def _gives_tensor(self, node: ast.AST, tensors: set[str]) -> bool:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id in tensors:
                return True
            if isinstance(inner, ast.Call):
                path = self.path(inner.func) or ""
                root, _, rest = path.partition(".")
                if path == "get_inputs" or (
                    root in _TENSOR_LIBRARIES
                    and rest.rpartition(".")[2].removesuffix("_like") in _TENSOR_FACTORIES
                ):
                    return True
        return False


def refuse_unless_definitions(source: PythonSource) -> None:
    """Applies the rules that every Python source obeys.

    Raises `Refusal` for an `if __name__ == "__main__"` block, for execution code at module
    level, and for a relative import.
    """
    block = source.main_block()
    if block is not None:
        raise Refusal(
            f'Remove test code: `if __name__ == "__main__"` block at {source.line(block)}',
            "Keep only imports and definitions; the judge calls the kernel itself.",
        )
    execution = source.execution()
    if execution is not None:
        node, word = execution
        if word == "instantiate":
            raise Refusal(
                f"Don't instantiate: execution code at module level, {source.line(node)}",
                "Remove the statement and leave the class: the judge constructs it, with what "
                "get_init_inputs() returns.",
            )
        raise Refusal(
            f"Don't execute: execution code at module level, {source.line(node)}",
            "Remove the statement and leave the definitions: the judge calls the kernel with "
            "its own inputs.",
        )
    relative = source.relative_import()
    if relative is not None:
        raise Refusal(
            f"No relative imports: use absolute imports only, {source.line(relative)}",
            "A submission is a single self-contained file: put what it needs into it.",
        )


def _asks_for_main(test: ast.expr) -> bool:
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides) and any(
                isinstance(side, ast.Constant) and side.value == "__main__" for side in sides
            ):
                return True
    return False


def _root(node: ast.AST) -> str | None:
    """The name that a callee starts with: `module` in `module.forward`, `add` in `add[grid]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _assigned(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {
        inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)
    }
