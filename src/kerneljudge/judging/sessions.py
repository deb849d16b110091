"""A runner with what it shares with the judge, and which runners may serve a further job."""

from __future__ import annotations

import ast
import hashlib
import re
import time
from dataclasses import dataclass, field

from kerneljudge.judging.processes import RunnerFault, RunnerProcess
from kerneljudge.judging.tensors import Transport
from kerneljudge.languages.python_source import PythonSource
from kerneljudge.runtime.memory import OwnedRegion
from kerneljudge.runtime.messages import Placement, Rest, Rested
from kerneljudge.schema import FaultKind, KernelCode, KernelType

__all__ = ["Session", "reference_key"]

_REST_SECONDS = 1.0
_MOST_JOBS = 256
_MOST_SHARED_BYTES = 2**30
_MOST_REGIONS = 4

_RELOADABLE = (KernelType.TORCH, KernelType.TRITON, KernelType.CUDA)
"""Those whose source may be loaded twice in a process; compiled extensions register themselves."""
_MODULES = frozenset(
    {
        "__future__",
        "abc",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "einops",
        "enum",
        "functools",
        "itertools",
        "math",
        "numpy",
        "operator",
        "random",
        "time",
        "torch",
        "triton",
        "typing",
    }
)
"""What a source may import."""
_LEAVES_TRACES = re.compile(
    r"set_(?!to_none$)\w*|register(?!_buffer$|_parameter$)\w*|use_\w*|backends|library|custom_op"
    r"|compile|multiprocessing|utils|ops|classes|hub|overrides|testing|sys|os|builtins|importlib"
    r"|subprocess|threading|signal|gc|ctypes|types|inspect|warnings|atexit|weakref"
    r"|setattr|delattr|getattr|globals|vars|locals|exec|open|breakpoint"
)
"""Names, of attributes too, of what may change a process for longer than a module lives."""


_OWN = frozenset({"self", "ctx"})
"""What a method calls its instance, and an autograd function its context: they die with the
module."""


def reference_key(kernel: KernelCode) -> str | None:
    """What makes two references the same: everything that was said of them.

    None for one whose runner may not serve a second job.
    """
    if kernel.kernel_type not in _RELOADABLE:
        return None
    if kernel.kernel_type is not KernelType.CUDA and not _leaves_no_trace(kernel.source_code):
        return None
    return hashlib.sha256(kernel.model_dump_json().encode()).hexdigest()


def _leaves_no_trace(text: str) -> bool:
    """Whether a source changes nothing that outlives its module, as far as it can be read.

    One that hides it changes its own process alone: no other source runs there.
    """
    source = PythonSource.parse(text)
    if source is None:
        return False
    return all(_is_harmless(node) for node in ast.walk(source.tree))


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return all(_may_import(*name.name.split(".")) for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return _may_import(*(node.module or "").split("."), *(name.name for name in node.names))
    if isinstance(node, ast.Name):
        if node.id in _OWN:
            # As a parameter it is the instance; as another name it may be anything.
            return isinstance(node.ctx, ast.Load)
        dunder = node.id.startswith("__") and node.id.endswith("__")
        return not dunder and node.id != "eval" and not _LEAVES_TRACES.fullmatch(node.id)
    if isinstance(node, ast.Attribute):
        own = _root(node) in _OWN
        hidden = node.attr.startswith("__" if own else "_") and node.attr != "__init__"
        if own:
            return not hidden and node.attr != "compile"
        read = isinstance(node.ctx, ast.Load)
        return read and not hidden and not _LEAVES_TRACES.fullmatch(node.attr)
    return True


def _may_import(module: str, *parts: str) -> bool:
    return (module in _MODULES) and not any(
        part.startswith("_") or _LEAVES_TRACES.fullmatch(part) for part in parts
    )


def _root(node: ast.Attribute) -> str | None:
    """The name that a chain of attributes begins with."""
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else None


@dataclass
class Session:
    """A runner and the memory that it shares with the judge, for as long as the runner lives."""

    runner: RunnerProcess
    transport: Transport
    jobs: int = 0
    """Jobs that it has served before this one, each with the same source."""
    region: OwnedRegion | None = None
    """Where the arguments lie."""
    placements: list[Placement] = field(default_factory=list)
    """The tensors of the region."""
    attached: tuple[object, ...] | None = None
    """What arguments the region is laid out for."""

    @property
    def may_rest(self) -> bool:
        """Whether it may serve a further job: it owes no answer, and holds little memory."""
        return (
            self.runner.asked == 0
            and self.runner.child.alive
            and self.jobs + 1 < _MOST_JOBS
            and self.transport.regions <= _MOST_REGIONS
            and self.transport.shared_bytes <= _MOST_SHARED_BYTES
        )

    def rest(self) -> None:
        """Has the frozen runner let go of its kernel, and freezes it again.

        Raises `RunnerFault` or `OSError` where that fails: the runner is of no use any more.
        """
        self.transport.rest()
        self.runner.build = None
        self.runner.child.thaw()
        self.runner.ask(Rest, Rested, deadline=time.monotonic() + _REST_SECONDS)
        self.runner.child.freeze()
        if self.runner.child.has_children:
            # They may have left its group, and would go on beside the next measurements.
            raise RunnerFault(FaultKind.CRASHED, "the reference left processes behind")

    def end(self) -> None:
        """Kills the runner, then gives back what it shared: memory that another process has opened
        may not be freed. Raises `ZygoteLost`, `CudaError` or `OSError`."""
        try:
            self.runner.end()
        finally:
            self.transport.close()

    def close(self) -> None:
        """Removes the runner's folder, once it has ended."""
        self.runner.close()
