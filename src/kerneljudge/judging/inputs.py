"""The arguments of one trial: from a contract, or from the reference's own `get_inputs`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kerneljudge.contract import ArgSpec, IOContract, Role
from kerneljudge.contract.generation import generate, torch_dtype
from kerneljudge.contract.seeds import value_seed
from kerneljudge.judging.processes import RunnerFault
from kerneljudge.runtime.messages import Made
from kerneljudge.runtime.values import Value, restore, strip
from kerneljudge.schema import FaultKind, KernelType

__all__ = ["Inputs", "Parameter", "for_runner", "from_contract", "from_made", "lend"]


@dataclass
class Parameter:
    """A tensor argument."""

    name: str
    """Its name in the contract, or its path in what `get_inputs` returned."""
    role: Role
    """Whether the kernel reads it, writes it, or both."""
    dtype: torch.dtype
    """Its dtype."""
    shape: list[int]
    """Its sizes."""
    strides: list[int] | None
    """Its strides in elements, None if it is contiguous."""
    value: torch.Tensor | None
    """What the kernel is given, on the judge's device; None for an output without values."""


@dataclass
class Inputs:
    """One trial's arguments: a list whose tensors are `Parameter`s, at any depth."""

    items: list[Any]
    """The arguments."""
    names: list[str] | None = None
    """Their names, where they are passed by keyword."""
    args: list[ArgSpec | None] = field(default_factory=list)
    """For each item, the contract's word on it."""

    @property
    def tree(self) -> Value:
        """The list as it crosses to a runner."""
        return strip(self.items, _is_parameter)[0]

    @property
    def parameters(self) -> list[Parameter]:
        """Its tensors, in the order of their indices in `tree`."""
        return list(strip(self.items, _is_parameter)[1])

    def layout_key(self) -> tuple[Any, ...]:
        """Equal for trials whose tensors fit into the same places."""
        return (
            self.tree.model_dump_json(),
            *(
                (parameter.dtype, *parameter.shape, *(parameter.strides or ()))
                for parameter in self.parameters
            ),
        )


def from_contract(
    contract: IOContract, device: torch.device, job_seed: int, trial: int, given: Inputs | None
) -> tuple[Inputs, dict[str, str]]:
    """The arguments that a contract describes, and for each input where its values came from.

    `given` are the reference's: a tensor of theirs with the same name takes the place of the
    contract's own, and so does, for each input that has no such namesake, the next of theirs of
    the same shape and dtype. Both kernels thus get the same values, whatever their contracts say.
    """
    lent = _match(contract, given) if given is not None else {}
    items: list[Any] = []
    origins = {}
    for position, arg in enumerate(contract.args):
        if arg.tensor_spec is None:
            items.append(arg.value)
            continue
        spec = arg.tensor_spec
        value: torch.Tensor | None = None
        if position in lent:
            value = lent[position].value
            origins[arg.name] = f"the reference's {lent[position].name!r}"
        elif arg.holds_values:
            seed = value_seed(spec, job_seed=job_seed, position=position, trial=trial)
            value = generate(spec, name=arg.name, device=device, seed=seed)
            if arg.role != "output":
                origins[arg.name] = "its own contract" if given is not None else "the contract"
        items.append(
            Parameter(
                name=arg.name,
                role=arg.role,
                dtype=torch_dtype(spec.dtype),
                shape=list(spec.shape),
                strides=list(spec.strides) if spec.strides is not None else None,
                value=value,
            )
        )
    return Inputs(items, args=list(contract.args)), origins


def _match(contract: IOContract, given: Inputs) -> dict[int, Parameter]:
    """Position in the contract → the reference's tensor for it."""
    theirs = [parameter for parameter in given.parameters if parameter.role != "output"]
    ours = {
        position: arg
        for position, arg in enumerate(contract.args)
        if arg.tensor_spec is not None and arg.role != "output"
    }
    lent: dict[int, Parameter] = {}

    def fits(arg: ArgSpec, parameter: Parameter) -> bool:
        spec = arg.tensor_spec
        return (
            spec is not None
            and list(spec.shape) == parameter.shape
            and torch_dtype(spec.dtype) == parameter.dtype
        )

    for position, arg in ours.items():
        for parameter in theirs:
            if parameter.name == arg.name and fits(arg, parameter):
                lent[position] = parameter
    free = [
        parameter for parameter in theirs if not any(parameter is used for used in lent.values())
    ]
    for position, arg in ours.items():
        if position in lent:
            continue
        for parameter in free:
            if fits(arg, parameter):
                lent[position] = parameter
                free = [other for other in free if other is not parameter]
                break
    return lent


def from_made(made: Made, tensors: list[torch.Tensor]) -> Inputs:
    """The arguments that a runner's `get_inputs` made, `tensors` being the judge's copies.

    Raises `RunnerFault` where the answer contradicts itself.
    """
    parameters = [
        Parameter(
            name=f"input[{index}]",
            role="input",
            dtype=tensor.dtype,
            shape=list(tensor.shape),
            strides=None,
            value=tensor,
        )
        for index, tensor in enumerate(tensors)
    ]
    try:
        items = restore(made.value, parameters)
    except ValueError as error:
        raise RunnerFault(FaultKind.PROTOCOL_ERROR, str(error)) from error
    if not isinstance(items, list) or (made.names is not None and len(made.names) != len(items)):
        raise RunnerFault(FaultKind.PROTOCOL_ERROR, "get_inputs() crossed as no list of arguments")
    for item, name in zip(items, made.names or (), strict=False):
        if isinstance(item, Parameter):
            item.name = name
    return Inputs(items, names=made.names, args=[None] * len(items))


def lend(inputs: Inputs, lender: KernelType) -> Inputs:
    """What a kernel without arguments of its own is given of the other kernel's.

    Its inputs, in order: no outputs, no meta parameters, and of a compiled kernel's contract no
    scalars either, which are its own plumbing (sizes, strides).
    """
    compiled = lender in (KernelType.TRITON, KernelType.CUDA)
    kept = [
        position
        for position, (item, arg) in enumerate(zip(inputs.items, inputs.args, strict=True))
        if arg is None
        or (isinstance(item, Parameter) and item.role != "output")
        or (not isinstance(item, Parameter) and not arg.is_meta and not compiled)
    ]
    return Inputs(
        [_as_input(inputs.items[position]) for position in kept],
        names=[inputs.names[position] for position in kept] if inputs.names else None,
        args=[inputs.args[position] for position in kept],
    )


def _as_input(item: Any) -> Any:
    return replace(item, role="input") if isinstance(item, Parameter) else item


def for_runner(contract: IOContract | None) -> IOContract | None:
    """The contract without what a runner has no business with: seeds, distributions and data."""
    if contract is None:
        return None
    args = [
        arg
        if arg.tensor_spec is None
        else arg.model_copy(
            update={"tensor_spec": arg.tensor_spec.model_copy(update={"init": None, "data": None})}
        )
        for arg in contract.args
    ]
    return contract.model_copy(update={"args": args})


def _is_parameter(value: Any) -> bool:
    return isinstance(value, Parameter)
