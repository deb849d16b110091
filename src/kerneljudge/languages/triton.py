"""`triton` kernels: one `@triton.jit` function, launched on the grid that the contract gives.

Works with the compiler (`JITFunction`) and with the interpreter (`InterpretedFunction`), which
takes the compiler's place where `TRITON_INTERPRET=1` was set before triton was imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, cast

from kerneljudge.contract import ArgSpec, IOContract, LaunchConfig, require_launch
from kerneljudge.languages.base import Language, LoadContext, LoadedKernel, LoadError, Refusal
from kerneljudge.languages.python_module import execute
from kerneljudge.languages.python_source import PythonSource, refuse_unless_definitions
from kerneljudge.languages.triton_interpreter import prepare_triton
from kerneljudge.schema import KernelCode, KernelType, Side, TritonOptions

__all__ = ["Binding", "LoadedTriton", "Parameter", "TritonLanguage", "bind"]

_NOT_FOUND = "No @triton.jit kernels found"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel."""

    name: str
    """Its name."""
    constexpr: bool
    """Whether it is annotated `tl.constexpr`."""
    has_default: bool = False
    """Whether it may be left out."""


@dataclass(frozen=True)
class Binding:
    """Which argument of a contract goes to which parameter of a kernel."""

    positional: tuple[int, ...]
    """Indices of the arguments that are passed by position."""
    keywords: tuple[tuple[str, int], ...]
    """Parameter and index of the argument for the others."""
    notes: tuple[str, ...] = ()
    """What may surprise the submitter."""


def bind(
    arguments: Sequence[ArgSpec],
    parameters: Sequence[Parameter],
    decided: Sequence[str] = (),
    other_kernels: Sequence[str] = (),
) -> Binding:
    """Binds the arguments of a contract to the parameters of a kernel.

    - Where every argument has the name of a parameter, names decide.
    - Else meta arguments (and scalars) with the name of a `tl.constexpr` parameter go to it,
      wherever they stand, and the rest goes by position: all of the rest in one order if kinds
      agree; else non-meta arguments fill the parameters that are not constexpr, and meta
      arguments the constexpr ones, each in their order.
    - Parameters in `decided`, which the kernel's own decorators set, take no argument.

    Leading parameters that are not constexpr are passed by position, as launchers do, and the
    others by keyword: the hooks of an autotuner tell the two apart.

    Raises `LoadError` that names the parameter without argument, or the argument without
    parameter.
    """
    known = {parameter.name: parameter for parameter in parameters}
    bound: dict[str, int] = {}
    for argument in arguments:
        if argument.name in decided:
            raise LoadError(
                f"Argument '{argument.name}' of the contract is a parameter that the kernel's "
                "@triton.autotune or @triton.heuristics sets",
                f"Remove '{argument.name}' from the contract, or the decorator from the source.",
            )
    by_name = all(argument.name in known for argument in arguments)
    for index, argument in enumerate(arguments):
        parameter = known.get(argument.name)
        if parameter is not None and (
            by_name or argument.is_meta or (parameter.constexpr and argument.type != "tensor")
        ):
            bound[argument.name] = index
    rest = [index for index in range(len(arguments)) if index not in bound.values()]
    free = [
        parameter
        for parameter in parameters
        if parameter.name not in bound and parameter.name not in decided
    ]

    def fits(index: int, parameter: Parameter) -> bool:
        if parameter.constexpr:
            return arguments[index].type != "tensor"
        return not arguments[index].is_meta

    if len(rest) == len(free) and all(map(fits, rest, free)):
        bound |= {parameter.name: index for parameter, index in zip(free, rest, strict=True)}
        rest = []
    else:
        for meta in (False, True):
            places = [parameter for parameter in free if parameter.constexpr is meta]
            values = [index for index in rest if arguments[index].is_meta is meta]
            for parameter, index in zip(places, values, strict=False):
                bound[parameter.name] = index
                rest.remove(index)

    which = (
        f" If another kernel of the source is meant ({', '.join(other_kernels)}), name it in "
        "metadata.kernel_name."
        if other_kernels
        else ""
    )
    signature = ", ".join(
        f"{parameter.name}: tl.constexpr" if parameter.constexpr else parameter.name
        for parameter in parameters
    )
    if rest:
        surplus = arguments[rest[0]]
        hint = f"The kernel's parameters are ({signature})."
        if surplus.is_meta and surplus.name in ("num_warps", "num_stages"):
            hint += f" Set launch.{surplus.name} of the contract instead."
        raise LoadError(
            f"Argument '{surplus.name}' of the contract has no parameter left in the kernel",
            hint + which,
        )
    for parameter in parameters:
        missing = parameter.name not in bound and parameter.name not in decided
        if missing and not parameter.has_default:
            kind = "a meta argument (is_meta: true)" if parameter.constexpr else "an argument"
            raise LoadError(
                f"Parameter '{parameter.name}' of the kernel has no argument in the contract",
                f"Give '{parameter.name}' as {kind}; the kernel's parameters are ({signature})."
                + which,
            )

    notes = tuple(
        f"argument '{arguments[index].name}' is passed, by position, as parameter '{name}', "
        f"although there is a parameter '{arguments[index].name}'"
        for name, index in bound.items()
        if arguments[index].name != name and arguments[index].name in known
    )
    positional: list[int] = []
    for parameter in parameters:
        if parameter.constexpr or parameter.name not in bound:
            break
        positional.append(bound.pop(parameter.name))
    keywords = tuple(
        (parameter.name, bound[parameter.name])
        for parameter in parameters
        if parameter.name in bound
    )
    return Binding(tuple(positional), keywords, notes)


class LoadedTriton(LoadedKernel):
    """A Triton kernel with its grid, its launch options and its arguments' places."""

    def __init__(
        self,
        name: str,
        kernel: Any,
        grid: tuple[int, int, int],
        options: dict[str, int],
        binding: Binding,
        notes: Sequence[str],
    ) -> None:
        self.name = name
        self.notes = notes
        self.options = options
        """Launch options that are passed: `num_warps`, `num_stages`."""
        self.compiled: Any = None
        """What the last launch returned: Triton's compiled kernel; None from the interpreter."""
        self._launch = kernel[grid]
        self._binding = binding

    def __call__(self, arguments: Sequence[Any]) -> None:
        """Launches the kernel; it writes into the contract's output tensors."""
        self.compiled = self._launch(
            *(arguments[index] for index in self._binding.positional),
            **{name: arguments[index] for name, index in self._binding.keywords},
            **self.options,
        )


class TritonLanguage(Language):
    """One `@triton.jit` kernel, launched without a launcher of the submitter's.

    `launch.num_warps` and `launch.num_stages` are passed with every launch. Where the kernel's
    own `@triton.autotune` or `@triton.heuristics` decides them, theirs hold, and a note says so.
    """

    kernel_type: ClassVar[KernelType] = KernelType.TRITON

    def read(self, kernel: KernelCode, side: Side) -> None:
        """Refuses models, launchers, execution code, test code and a source without kernel."""
        _require_contract(kernel)
        source = PythonSource.parse(kernel.source_code)
        if source is None:
            return
        refuse_unless_definitions(source)
        for node in source.models.values():
            raise Refusal(
                f"Don't mix models with Triton: {source.line(node)}",
                "Leave only the kernel and its helper functions: the judge launches it as the "
                "contract says. Submit a source with a class that launches kernels as kernel "
                "type `multi_kernel`, with a function as its entry point.",
            )
        if not source.mentions("jit"):
            raise Refusal(
                _NOT_FOUND,
                "Put the decorator @triton.jit on the kernel, and import triton.",
            )
        launch = source.launch()
        if launch is not None:
            raise Refusal(
                f"Don't include launchers: {source.line(launch)}",
                "Remove the function: the judge launches the kernel, on the grid of the "
                "contract. Submit a source with a launcher as kernel type `multi_kernel`, with "
                "the launcher as its entry point.",
            )

    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Executes the source, finds the kernel and binds the contract's arguments to it."""
        contract, launch = _require_contract(kernel)
        options = cast(TritonOptions, kernel.options)
        prepare_triton(context)
        module = execute(kernel.source_code, context)
        kernels = _kernels(module)
        if not kernels:
            raise LoadError(_NOT_FOUND, "Put the decorator @triton.jit on the kernel.")
        name = options.kernel_name or next(iter(kernels))
        if name not in kernels:
            raise LoadError(
                f"Kernel '{name}' not found",
                f"The source's @triton.jit kernels are {', '.join(kernels)}: name one of them in "
                "metadata.kernel_name.",
            )
        found = kernels[name]
        decided, decided_options = _decided(found)
        binding = bind(
            contract.args,
            _parameters(found),
            sorted(decided),
            [other for other in kernels if other != name],
        )
        launch_options: dict[str, int] = {}
        notes = [
            *binding.notes,
            *(
                f"the dtype {argument.dtype} of argument '{argument.name}' is not used: Triton "
                "takes a scalar's width from its value, or from the parameter's annotation"
                for argument in contract.args
                if argument.dtype is not None
            ),
        ]
        for option in ("num_warps", "num_stages"):
            value: int | None = getattr(launch, option)
            if value is None:
                continue
            if option in decided_options:
                notes.append(
                    f"launch.{option} = {value} of the contract is not used: the kernel's own "
                    f"{decided_options[option]} decides it"
                )
                continue
            if any(keyword == option for keyword, _ in binding.keywords):
                # The kernel takes the option as a parameter of its own: one value serves both.
                argument = next(arg for arg in contract.args if arg.name == option)
                if argument.value != value:
                    raise LoadError(
                        f"launch.{option} = {value} contradicts the argument '{option}' = "
                        f"{argument.value}",
                        "Give both the same value, or leave one out.",
                    )
                continue
            launch_options[option] = value
        grid = launch.grid
        assert grid is not None  # _require_contract
        return LoadedTriton(name, found, grid.xyz, launch_options, binding, notes)


def _require_contract(kernel: KernelCode) -> tuple[IOContract, LaunchConfig]:
    if kernel.io is None:
        raise Refusal(
            "IOContract is required for Triton",
            "Give the io_contract of the kernel's arguments in the field `io`.",
        )
    try:
        require_launch(kernel.io, kernel.kernel_type.value)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        raise Refusal(message, hint) from None
    assert kernel.io.launch is not None
    return kernel.io, kernel.io.launch


def _kernels(module: ModuleType) -> dict[str, Any]:
    """Name → the `@triton.jit` kernels that a module itself defines, in source order."""
    from triton.runtime.jit import KernelInterface

    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, KernelInterface) and _function(value).__module__ == module.__name__
    }


def _layers(kernel: Any) -> list[Any]:
    """A kernel under its decorators, outermost first, the Python function last."""
    layers = [kernel]
    while not inspect.isfunction(layers[-1]):
        layers.append(layers[-1].fn)
    return layers


def _function(kernel: Any) -> Any:
    return _layers(kernel)[-1]


def _parameters(kernel: Any) -> list[Parameter]:
    parameters = []
    for parameter in inspect.signature(_function(kernel)).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise LoadError(
                f"Parameter '{parameter}' of the kernel takes any number of arguments",
                "Write the parameters out, one for each argument of the contract.",
            )
        # The annotation is the class tl.constexpr, or text under `from __future__`.
        constexpr = "constexpr" in str(parameter.annotation)
        has_default = parameter.default is not parameter.empty
        parameters.append(Parameter(parameter.name, constexpr, has_default))
    return parameters


def _decided(kernel: Any) -> tuple[set[str], dict[str, str]]:
    """What the decorators of a kernel decide: parameters, and launch options with by whom."""
    from triton.runtime.autotuner import Autotuner, Heuristics

    names = {parameter.name for parameter in _parameters(kernel)}
    decided: set[str] = set()
    options: dict[str, str] = {}
    for layer in _layers(kernel):
        if isinstance(layer, Autotuner):
            for config in layer.configs:
                decided |= config.kwargs.keys()
                options |= dict.fromkeys(config.all_kwargs(), "@triton.autotune")
        elif isinstance(layer, Heuristics):
            decided |= layer.values.keys()
            options |= dict.fromkeys(layer.values, "@triton.heuristics")
    return decided & names, options
