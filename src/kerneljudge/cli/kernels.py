"""Kernels from files: what kind of source it is, its contract, its metadata."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kerneljudge.cli.console import Usage
from kerneljudge.contract import IOContract
from kerneljudge.schema import KernelCode, KernelType, load_from_file

__all__ = [
    "KernelOptions",
    "infer_type",
    "makes_inputs",
    "read_comparison",
    "read_kernel",
    "read_metadata",
    "run_options",
]

_CUDA_SUFFIXES = frozenset({".cu", ".cuh"})


@dataclass(frozen=True)
class KernelOptions:
    """What the command line says of a kernel, beside its source."""

    kernel_type: KernelType | None = None
    """Its type; told from the source where unset."""
    contract: Path | None = None
    """A JSON file with its contract."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Its metadata."""


def read_kernel(path: Path, options: KernelOptions) -> KernelCode:
    """The kernel in a file. Raises `Usage` for what cannot be a kernel; executes nothing."""
    source = read_source(path)
    contract = _contract(options.contract) if options.contract is not None else None
    try:
        kernel_type = options.kernel_type or infer_type(path, source, options.metadata)
        return KernelCode(
            source_code=source,
            kernel_type=kernel_type,
            io=contract,
            metadata=options.metadata or None,
        )
    except ValidationError as error:
        reasons = "; ".join(
            problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False)
        )
        hint = " (--contract FILE)" if contract is None and "IOContract" in reasons else ""
        raise Usage(f"{path} is no valid kernel: {reasons}{hint}") from None


def read_comparison(
    reference: Path, ref_options: KernelOptions, candidate: Path, options: KernelOptions
) -> dict[str, Any]:
    """The kernels of a comparison, as its request has them. Raises what `read_kernel` raises.

    The reference shares the candidate's contract, unless it has one or makes its inputs itself.
    """
    if ref_options.contract is None and not makes_inputs(read_source(reference)):
        ref_options = replace(ref_options, contract=options.contract)
    return {
        "ref_kernel": read_kernel(reference, ref_options),
        "custom_kernel": read_kernel(candidate, options),
    }


def run_options(
    trials: int,
    warmup: int,
    checks: int,
    timeout: float,
    seed: int | None,
    atol: float | None = None,
    rtol: float | None = None,
) -> dict[str, Any]:
    """How a job is run, as its request has it; what is None is left to the server."""
    given = {
        "num_trials": trials,
        "num_warmup": warmup,
        "num_checks": checks,
        "timeout": timeout,
        "seed": seed,
        "atol": atol,
        "rtol": rtol,
    }
    return {name: value for name, value in given.items() if value is not None}


def read_source(path: Path) -> str:
    """The text of a file. Raises `Usage` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Usage(f"{path} is not UTF-8: {error}") from None


def read_metadata(text: str | None, shortcuts: dict[str, Any]) -> dict[str, Any]:
    """Metadata from `--metadata` (JSON, or `@` and the name of a JSON file) and the shortcuts,
    which win. Raises `Usage` for what is no JSON object."""
    metadata: Any = {}
    if text is not None:
        where = "--metadata"
        if text.startswith("@"):
            where = text[1:]
            text = read_source(Path(where))
        try:
            metadata = json.loads(text)
        except json.JSONDecodeError as error:
            raise Usage(f"{where} is not JSON: {error}") from None
        if not isinstance(metadata, dict):
            raise Usage(f'{where} must be a JSON object, such as {{"kernel_name": "add"}}')
    return {**metadata, **{key: value for key, value in shortcuts.items() if value}}


def infer_type(path: Path, source: str, metadata: dict[str, Any]) -> KernelType:
    """The kernel type that a source has by its suffix and its syntax tree.

    A `.cu` file is `cuda`, a source with an entry point `multi_kernel`. Otherwise: extensions
    built by torch alone make `torch_cuda`, Triton kernels alone `triton`, neither `torch`. Raises
    `Usage` for a mixture, which needs an entry point, and for what is no Python.
    """
    if path.suffix in _CUDA_SUFFIXES:
        return KernelType.CUDA
    if metadata.get("entry_point"):
        return KernelType.MULTI_KERNEL
    tree = _parsed(path, source)
    kernels = _jit_functions(tree)
    found = {
        "Triton kernels": bool(kernels),
        "load_inline": _builds_extension(tree),
        "CuPy": _imports(tree, "cupy"),
        "a launch of its Triton kernels": _launches(tree, kernels),
        "a model": bool(kernels) and _has_model(tree),
    }
    parts = [name for name, present in found.items() if present]
    if not parts:
        return KernelType.TORCH
    if parts == ["Triton kernels"]:
        return KernelType.TRITON
    if parts == ["load_inline"]:
        return KernelType.TORCH_CUDA
    raise Usage(
        f"{path} has {', '.join(parts)}: name the function to call with --entry-point, which "
        "makes it multi_kernel, or give its --type"
    )


def makes_inputs(source: str) -> bool:
    """Whether a Python source defines `get_inputs`, as in the KernelBench pattern."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "get_inputs" for node in tree.body
    )


def _contract(path: Path) -> IOContract:
    try:
        return load_from_file(path)
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise Usage(str(error)) from None


def _parsed(path: Path, source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Usage(
            f"{path} cannot be read as Python ({error}), so its type is not known: give --type"
        ) from None


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _jit_functions(tree: ast.Module) -> set[str]:
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(_last_name(decorator) == "jit" for decorator in node.decorator_list)
    }


def _builds_extension(tree: ast.Module) -> bool:
    called = {_last_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "torch.utils.cpp_extension"
        for alias in node.names
    }
    return "load_inline" in called or bool(imported & called)


def _imports(tree: ast.Module, package: str) -> bool:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        if any(name.partition(".")[0] == package for name in names):
            return True
    return False


def _launches(tree: ast.Module, kernels: set[str]) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Subscript)
        and _last_name(node.func.value) in kernels
        for node in ast.walk(tree)
    )


def _has_model(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ClassDef)
        and any(isinstance(item, ast.FunctionDef) and item.name == "forward" for item in node.body)
        for node in tree.body
    )
