"""Executes a submitted Python source as a module, in a runner, and constructs what it defines.

Shared by every kernel type that is written in Python. torch is imported inside the functions:
the registry of languages is importable without it.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kerneljudge.languages.base import LoadContext, LoadError

if TYPE_CHECKING:
    import torch

__all__ = [
    "construct",
    "definitions",
    "execute",
    "find_callable",
    "find_class",
    "list_definitions",
    "module_name",
    "own_inputs",
    "to_device",
]


def module_name(source: str) -> str:
    """The name that a source is imported under: the same for the same source, never `__main__`."""
    return f"kernel_{sha256(source.encode()).hexdigest()[:16]}"


def execute(source: str, context: LoadContext) -> ModuleType:
    """Executes `source` as a module of its own and returns it.

    The source is written to `kernel.py` in the scratch folder and the module registered in
    `sys.modules`, so that `inspect.getsource` (which Triton reads kernels with), pickling and
    tracebacks work. The random generators are seeded with `context.seed` first.

    Raises what the source raises, a SyntaxError included.
    """
    import torch

    path = context.scratch / "kernel.py"
    path.write_text(source, encoding="utf-8", newline="")
    name = module_name(source)
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__spec__ = ModuleSpec(name, None, origin=str(path))
    # The text is compiled as it came: a coding cookie in it names no encoding of a str. An entry
    # without a time stamp is never checked against the file.
    code = compile(source, str(path), "exec", dont_inherit=True)
    linecache.cache[str(path)] = (len(source), None, source.splitlines(True), str(path))
    sys.modules[name] = module
    torch.manual_seed(context.seed)
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def definitions(module: ModuleType) -> tuple[list[str], list[str]]:
    """Names of the classes and of the functions that a module itself defines, in source order."""
    own = {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    classes = [name for name, value in own.items() if isinstance(value, type)]
    functions = [name for name, value in own.items() if inspect.isfunction(value)]
    return classes, functions


def list_definitions(module: ModuleType) -> str:
    """What a module defines, as the words of a hint."""
    classes, functions = definitions(module)
    parts = []
    if classes:
        parts.append(f"classes {', '.join(classes)}")
    if functions:
        parts.append(f"functions {', '.join(functions)}")
    return f"The source defines {' and '.join(parts)}." if parts else "The source defines neither."


def find_class(module: ModuleType, names: list[str], advice: str) -> type[Any]:
    """The first of `names` that a module has as a class.

    Raises `LoadError` that names the last of them, with what the source does define, and `advice`.
    """
    for name in names:
        found = getattr(module, name, None)
        if isinstance(found, type):
            return found
    raise LoadError(f"Class '{names[-1]}' not found", f"{list_definitions(module)} {advice}")


def find_callable(module: ModuleType, name: str, message: str, advice: str) -> Callable[..., Any]:
    """What a module has under `name`, if it can be called and is no class.

    Raises `LoadError` with `message`, what the source does define, and `advice`.
    """
    found = getattr(module, name, None)
    if found is None or isinstance(found, type) or not callable(found):
        raise LoadError(message, f"{list_definitions(module)} {advice}")
    return found  # type: ignore[no-any-return]


def construct(
    cls: type[Any], module: ModuleType, context: LoadContext, mode: str | None = None
) -> tuple[Any, Any]:
    """Constructs a model on the device: the instance, and what it was constructed with.

    The constructor's arguments are those of the source's own `get_init_inputs()`, else
    `context.init_inputs`, else none; a dict is taken as keywords, anything else as positional
    arguments. The generators are seeded again right before, so that a reference and a candidate
    with the same layers get the same weights. `mode` is "train", "eval", or None for what the
    constructor left.
    """
    import torch

    inputs = context.init_inputs if context.init_inputs is not None else []
    get_init_inputs = getattr(module, "get_init_inputs", None)
    if callable(get_init_inputs):
        inputs = _call_on(context.device, get_init_inputs)
        if inputs is None:
            inputs = []
    if not isinstance(inputs, list | tuple | dict):
        raise LoadError(
            f"get_init_inputs() must return a list, a tuple or a dict, not {_type(inputs)}",
            "Return a list of positional arguments, `[64, 3]`, or a dict of keywords.",
        )
    inputs = to_device(inputs, context.device)

    def seeded() -> Any:
        torch.manual_seed(context.seed)
        return cls(**inputs) if isinstance(inputs, dict) else cls(*inputs)

    model = _call_on(context.device, seeded)
    if isinstance(model, torch.nn.Module):
        model = model.to(context.device)
    if mode is not None:
        if not isinstance(model, torch.nn.Module):
            raise LoadError(
                f"metadata.mode is {mode!r}, and class '{cls.__name__}' is no torch.nn.Module",
                "Remove the mode, or derive the class from torch.nn.Module.",
            )
        model.train(mode == "train")
    return model, inputs


def own_inputs(
    module: ModuleType, device: torch.device
) -> tuple[list[Any], list[str] | None] | None:
    """What the source's `get_inputs()` returns, on the device; None where it defines none.

    A list or tuple gives the values; a dict gives its values and its keys, which are the names of
    keyword arguments. Values that are no tensors stay as they are.
    """
    get_inputs = getattr(module, "get_inputs", None)
    if not callable(get_inputs):
        return None
    inputs = _call_on(device, get_inputs)
    if isinstance(inputs, dict) and all(isinstance(name, str) for name in inputs):
        return to_device(list(inputs.values()), device), list(inputs)
    if isinstance(inputs, list | tuple):
        return to_device(list(inputs), device), None
    raise LoadError(
        f"get_inputs() must return a list, a tuple or a dict of names, not {_type(inputs)}",
        "Return a list, also of a single tensor: `return [x]`.",
    )


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it, also inside lists, tuples and dicts, on the device."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [to_device(item, device) for item in value]
    if isinstance(value, tuple):
        items = [to_device(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _call_on(device: torch.device, function: Callable[[], Any]) -> Any:
    """Calls `function` with the device as torch's default, so that it makes its tensors there.

    A source that draws from a generator of its own, which is the CPU's, cannot do so for another
    device: it is then called as it stands, and its tensors are moved.
    """
    import torch

    try:
        with torch.device(device):
            return function()
    except RuntimeError as error:
        if "device type for generator but found" not in str(error):
            raise
    return function()


def _type(value: Any) -> str:
    return type(value).__name__
