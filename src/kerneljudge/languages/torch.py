"""`torch` kernels: a function, or a method of a class, of pure PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kerneljudge.languages.base import Language, LoadContext, LoadedKernel, LoadError, Refusal
from kerneljudge.languages.python_module import (
    construct,
    execute,
    find_callable,
    find_class,
    own_inputs,
)
from kerneljudge.languages.python_source import PythonSource, refuse_unless_definitions
from kerneljudge.schema import KernelCode, KernelType, Side, TorchOptions

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedModule", "TorchLanguage", "load_class", "load_function"]


class LoadedModule(LoadedKernel):
    """A callable of an executed Python source, with the source's own inputs."""

    def __init__(
        self,
        name: str,
        target: Callable[..., Any],
        module: ModuleType,
        device: torch.device,
        init_inputs: Any = None,
    ) -> None:
        self.name = name
        self.init_inputs = init_inputs
        self._target = target
        self._module = module
        self._device = device

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """Calls the target: by keyword under `input_names`, else by position."""
        if self.input_names is not None and len(self.input_names) == len(arguments):
            return self._target(**dict(zip(self.input_names, arguments, strict=True)))
        return self._target(*arguments)

    def make_inputs(self) -> list[Any] | None:
        """What `get_inputs()` returns, on the device; sets `input_names` where that is a dict."""
        made = own_inputs(self._module, self._device)
        if made is None:
            return None
        values, self.input_names = made
        return values


def load_function(module: ModuleType, name: str, context: LoadContext) -> LoadedModule:
    """A module-level function as a kernel. Raises `LoadError` where there is none."""
    function = find_callable(
        module,
        name,
        f"Function '{name}' not found in module",
        "Name one of its functions in metadata.function_name.",
    )
    return LoadedModule(name, function, module, context.device)


def load_class(
    module: ModuleType,
    class_names: list[str],
    method_name: str | None,
    mode: str | None,
    context: LoadContext,
) -> LoadedModule:
    """A method of a constructed class as a kernel.

    The class is the first of `class_names` that there is. `forward` of a torch module goes
    through the module's own call, so that its hooks run. Raises `LoadError` where there is no
    such class or method.
    """
    cls = find_class(
        module,
        class_names,
        "Name a class in metadata.class_name, or a function in metadata.function_name.",
    )
    model, init_inputs = construct(cls, module, context, mode)
    method = method_name or "forward"
    target = getattr(model, method, None)
    if not callable(target):
        methods = [
            name
            for name, value in vars(cls).items()
            if callable(value) and not name.startswith("_")
        ]
        raise LoadError(
            f"Method '{method}' not found in class '{cls.__name__}'",
            f"Its methods are {', '.join(methods) or 'none'}: name one in metadata.method_name.",
        )
    import torch

    if method == "forward" and isinstance(model, torch.nn.Module):
        target = model
    return LoadedModule(f"{cls.__name__}.{method}", target, module, context.device, init_inputs)


class TorchLanguage(Language):
    """Pure PyTorch.

    `function_name` wins over `class_name` and `method_name`; without any, it is the KernelBench
    pattern: `Model` (for a candidate `ModelNew` first), its `forward`, `get_inputs()` and
    `get_init_inputs()`.
    """

    kernel_type: ClassVar[KernelType] = KernelType.TORCH

    def read(self, kernel: KernelCode, side: Side) -> None:
        """Refuses Triton, CUDA code, execution code, test code and relative imports."""
        source = PythonSource.parse(kernel.source_code)
        if source is None:
            return
        if "triton" in source.imports:
            raise Refusal(
                f"Don't mix Triton with TORCH: {source.line(source.imports['triton'])}",
                "Remove the import, or submit the source as kernel type `triton` (one kernel) or "
                "`multi_kernel` (a script that launches it).",
            )
        cuda = source.strings_with("__global__")
        if cuda:
            raise Refusal(
                f"CUDA code in TORCH kernel: a string at {source.line(cuda[0])}",
                "Submit CUDA that load_inline compiles as kernel type `torch_cuda`, and a "
                "`__global__` function alone as `cuda`.",
            )
        if source.extension_builds:
            raise Refusal(
                f"CUDA code in TORCH kernel: an extension is built at "
                f"{source.line(source.extension_builds[0])}",
                "Submit a source that calls load_inline as kernel type `torch_cuda`.",
            )
        refuse_unless_definitions(source)

    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Executes the source and finds the function, or constructs the class."""
        options = cast(TorchOptions, kernel.options)
        module = execute(kernel.source_code, context)
        if options.function_name:
            return load_function(module, options.function_name, context)
        default = ["ModelNew", "Model"] if context.side == "candidate" else ["Model"]
        class_names = [options.class_name] if options.class_name else default
        return load_class(module, class_names, options.method_name, options.mode, context)
