"""`torch_cuda` kernels: a PyTorch model with CUDA that `load_inline` compiles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import ClassVar, cast

from kerneljudge.languages.base import Language, LoadContext, LoadedKernel, LoadError, Refusal
from kerneljudge.languages.extensions import intercept_extension_builds
from kerneljudge.languages.python_module import execute, find_class, list_definitions
from kerneljudge.languages.python_source import PythonSource, refuse_unless_definitions
from kerneljudge.languages.torch import load_class, load_function
from kerneljudge.schema import KernelCode, KernelType, Side, TorchCudaOptions

__all__ = ["TorchCudaLanguage"]

_MODEL = "ModelNew"
_NO_MODEL = "No ModelNew torch module found"
# CUDA libraries with kernels of their own: a source that calls one needs none.
_KERNEL_LIBRARIES = ("thrust/", "cub/", "cutlass/", "cublas", "cudnn", "cusparse", "cufft")
# Ways for sources to come from somewhere else than the text at hand.
_READERS = ("open", "read_text", "load")


class TorchCudaLanguage(Language):
    """A model whose CUDA is compiled by `load_inline` or `load`, any number of times.

    The class is `ModelNew`, for a reference also `Model`, unless metadata names a class or a
    function. The static rules refuse only what cannot work when it is executed.
    """

    kernel_type: ClassVar[KernelType] = KernelType.TORCH_CUDA

    def read(self, kernel: KernelCode, side: Side) -> None:
        """Refuses sources without load_inline, CUDA or ModelNew, with Triton, or that run code."""
        source = PythonSource.parse(kernel.source_code)
        if source is None:
            return
        options = cast(TorchCudaOptions, kernel.options)
        if "triton" in source.imports:
            raise Refusal(
                "Mixed with Triton: keep kernel types separate, "
                f"{source.line(source.imports['triton'])}",
                "Remove the import, or submit the source as kernel type `multi_kernel`.",
            )
        _refuse_without_sources(source, kernel.source_code)
        if options.class_name is None and options.function_name is None:
            _refuse_without_model(source, kernel.source_code, side)
        refuse_unless_definitions(source)

    def load(self, kernel: KernelCode, context: LoadContext) -> LoadedKernel:
        """Executes the source, with what it has compiled, and constructs the model.

        Raises `BuildError` where an extension does not compile, and `Unsupported` where the
        device cannot run its kernels.
        """
        options = cast(TorchCudaOptions, kernel.options)
        builds = intercept_extension_builds(context, options.build)
        module = execute(kernel.source_code, context)
        if options.function_name:
            builds.refuse_device_code()
            return load_function(module, options.function_name, context)
        if options.class_name is not None:
            names = [options.class_name]
        else:
            names = [_MODEL, "Model"] if context.side == "reference" else [_MODEL]
            if not any(isinstance(getattr(module, name, None), type) for name in names):
                raise LoadError(_NO_MODEL, _model_hint(list_definitions(module)))
        find_class(module, names, "Name a class in metadata.class_name.")
        builds.refuse_device_code()
        return load_class(module, names, options.method_name, options.mode, context)


def _refuse_without_sources(source: PythonSource, text: str) -> None:
    calls = [call for call in source.extension_builds if source.last(call.func) == "load_inline"]
    if not source.extension_builds and not _mentions_builder(source):
        raise Refusal(
            "No load_inline call found",
            "Compile the CUDA source with `torch.utils.cpp_extension.load_inline(name=..., "
            "cpp_sources=..., cuda_sources=..., functions=[...])`.",
        )
    for call in calls:
        for parameter, position in (("cuda_sources", 2), ("cpp_sources", 1)):
            if not _gives(call, parameter, position):
                wrong = [word.arg for word in call.keywords if word.arg == parameter[:-1]]
                raise Refusal(
                    f"No {parameter} found: {source.line(call)}",
                    f"load_inline has no parameter `{wrong[0]}`: write `{parameter}`."
                    if wrong
                    else f"Pass `{parameter}` to load_inline.",
                )
    names = _bound_names(source.tree)
    for call in calls:
        for name in _names_passed(call):
            if names is not None and name.id not in names:
                raise Refusal(
                    f"Failed to extract CUDA source from variable '{name.id}': {source.line(name)}",
                    f"Nothing in the source assigns `{name.id}`: define it before load_inline.",
                )
    elsewhere = any(map(source.mentions, _READERS)) or any(
        library in text for library in _KERNEL_LIBRARIES
    )
    if "__global__" not in text and not elsewhere:
        raise Refusal(
            "No __global__ functions found",
            "A CUDA kernel is a `__global__ void` function in cuda_sources.",
        )


def _mentions_builder(source: PythonSource) -> bool:
    """Whether anything but an import names torch's extension builder, also in a string."""
    for node in source.nodes:
        text = None
        if isinstance(node, ast.Name | ast.Attribute):
            text = source.path(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if text is not None and ("load_inline" in text or "cpp_extension" in text):
            return True
    return False


def _refuse_without_model(source: PythonSource, text: str, side: Side) -> None:
    names = [_MODEL, "Model"] if side == "reference" else [_MODEL]
    classes = {node.name for node in source.nodes if isinstance(node, ast.ClassDef)}
    if classes.intersection(names) or _MODEL in text:
        return  # also where it is made by a call, or imported under that name
    raise Refusal(
        _NO_MODEL,
        _model_hint(f"The source defines {', '.join(sorted(classes)) or 'no classes'}."),
    )


def _model_hint(defined: str) -> str:
    return (
        f"{defined} Define `class ModelNew(nn.Module)`, or name another class in "
        "metadata.class_name."
    )


def _gives(call: ast.Call, parameter: str, position: int) -> bool:
    """Whether a call passes a parameter, as far as its text tells."""
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    return len(call.args) > position or any(
        word.arg is None or word.arg == parameter for word in call.keywords
    )


def _names_passed(call: ast.Call) -> Iterator[ast.Name]:
    """The variables that a call passes as its CUDA sources."""
    passed = [word.value for word in call.keywords if word.arg == "cuda_sources"]
    passed += call.args[2:3]
    for value in passed:
        items = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        yield from (item for item in items if isinstance(item, ast.Name))


def _bound_names(tree: ast.Module) -> set[str] | None:
    """Every name that anything in a module binds; None where a star import hides some."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            if node.name == "*":
                return None
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in (
            *("exec", "globals", "locals", "vars", "setattr"),
        ):
            return None
    return names
