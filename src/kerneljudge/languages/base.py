"""What every kernel type answers: may this source be run, what must be built, how is it called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kerneljudge.building.requests import BuildRequest, BuildResult
from kerneljudge.schema import KernelCode, KernelType, Side

if TYPE_CHECKING:
    import torch

__all__ = ["Language", "LoadContext", "LoadError", "LoadedKernel", "Refusal", "Unsupported"]


class Refusal(Exception):
    """The source breaks a rule of its kernel type. Carries what is wrong and how to mend it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class LoadError(Exception):
    """The kernel cannot be loaded, for a reason that is the submitter's."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unsupported(LoadError):
    """The kernel compiles, and the device at hand cannot run it."""


@dataclass
class LoadContext:
    """What a runner gives a language to load one kernel with."""

    device: torch.device
    """Where it will run."""
    side: Side
    """Whether this is the reference or the candidate (or sole) kernel."""
    seed: int
    """The seed set before the source is executed and before a model is constructed."""
    scratch: Path
    """A writable folder, private to this kernel."""
    build: Callable[[BuildRequest], BuildResult]
    """Has something built by a builder; blocks. Never raises for the submitter's mistakes."""
    built: list[BuildResult] = field(default_factory=list)
    """Results of `Language.builds`, in order."""
    init_inputs: Any = None
    """Constructor arguments for a candidate whose source has no `get_init_inputs`: the
    reference's, a list (positional) or a dict (keywords)."""


class LoadedKernel(ABC):
    """A kernel ready to be called, in a runner."""

    name: str
    """What is launched: function, class or kernel name."""
    init_inputs: Any = None
    """What `get_init_inputs()` returned, for the candidate's sake."""
    input_names: list[str] | None = None
    """The keys, where `get_inputs()` returned a dict: the arguments are then passed by keyword.
    `make_inputs` sets it; it may be set on a candidate that is given the reference's inputs."""
    notes: Sequence[str] = ()
    """What the submitter should know of how the kernel is launched, such as a launch option that
    the kernel's own autotuner decides instead."""

    @abstractmethod
    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Runs the kernel once on the current stream, without synchronizing.

        `arguments` are the contract's, in its order and all of them (meta and scalar values,
        tensors of every role), or, without a contract, what `make_inputs` gave. Returns the
        kernel's own return value, or None.
        """

    def make_inputs(self) -> list[Any] | None:
        """The source's own inputs (`get_inputs()`), or None where it defines none."""
        return None

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Lets go of what would outlive it in its process."""


class Language(ABC):
    """One kernel type."""

    kernel_type: ClassVar[KernelType]

    @abstractmethod
    def read(self, kernel: KernelCode, side: Side) -> None:
        """Applies the static rules, without executing anything.

        Raises `Refusal` for a source that the manual calls not acceptable.
        """

    def builds(self, kernel: KernelCode, architecture: str) -> list[BuildRequest]:
        """What must be compiled before the kernel is loaded, as far as the source alone tells."""
        return []

    @abstractmethod
    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Executes the source, in a runner, and finds what to call.

        Raises `Refusal` or `LoadError`; any other exception is the submitted code's own.
        """
