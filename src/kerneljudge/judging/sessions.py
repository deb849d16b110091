"""A runner with what it shares with the judge, and which runners may serve a further job."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field

from kerneljudge.judging.processes import RunnerProcess
from kerneljudge.judging.tensors import Transport
from kerneljudge.runtime.memory import OwnedRegion
from kerneljudge.runtime.messages import Placement, Rest, Rested
from kerneljudge.schema import KernelCode, KernelType

__all__ = ["Session", "reference_key"]

_REST_SECONDS = 10.0
_MOST_JOBS = 256
_MOST_SHARED_BYTES = 2**30

_RELOADABLE = (KernelType.TORCH, KernelType.TRITON, KernelType.CUDA)
"""Those whose source may be loaded twice in a process; compiled extensions register themselves."""
_LEAVES_TRACES = re.compile(
    r"""
    \b(set_(?!to_none)\w+|backends|library|custom_op|compile|environ|globals|setattr|sys|os
    |ctypes|gc|atexit|threading|Thread|\w*cache\w*|import_module|__\w*(?<!__init)__
    |register_(?!buffer\b|parameter\b)\w+)\b
    |(?<![.\w])(exec|eval)\s*\(
    |^\s*(torch|triton|tl|nn|F|np|numpy)(\.\w+)+\s*=(?!=)
    """,
    re.VERBOSE | re.MULTILINE,
)
"""What a source has in it that may change its process for longer than its module lives. One that
hides it changes the process for itself alone: no other source runs there."""


def reference_key(kernel: KernelCode) -> str | None:
    """What makes two references the same: everything that was said of them.

    None for one whose runner may not serve a second job.
    """
    if kernel.kernel_type not in _RELOADABLE or (
        kernel.kernel_type is not KernelType.CUDA and _LEAVES_TRACES.search(kernel.source_code)
    ):
        return None
    return hashlib.sha256(kernel.model_dump_json().encode()).hexdigest()


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
            and (self.region is None or self.region.region.size <= _MOST_SHARED_BYTES)
        )

    def rest(self) -> None:
        """Has the runner let go of its kernel, and freezes it.

        Raises `RunnerFault` or `OSError` where that fails: the runner is of no use any more.
        """
        self.transport.rest()
        self.runner.build = None
        self.runner.ask(Rest, Rested, deadline=time.monotonic() + _REST_SECONDS)
        self.runner.child.freeze()
        self.runner.child.clear()

    def resume(self) -> None:
        """Has it go on with a further job."""
        self.jobs += 1
        self.runner.child.thaw()

    def close(self) -> None:
        """Ends the runner, then gives back what it shared: memory that another process has opened
        may not be freed. Raises `CudaError` or `OSError`."""
        self.runner.close()
        self.transport.close()
