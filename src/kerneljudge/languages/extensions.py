"""Takes the place of torch's extension builder in a runner: what it is asked for, a builder builds.

`torch.utils.cpp_extension.load_inline` and `load` take the same arguments as ever. The runner only
loads what comes back; it needs no compiler.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from kerneljudge.building.requests import BuildResult, ExtensionBuild
from kerneljudge.languages.base import LoadContext, LoadError, Unsupported

if TYPE_CHECKING:
    import torch

__all__ = ["BuildError", "ExtensionBuilds", "intercept_extension_builds"]

_ARCHITECTURE_WITHOUT_GPU = "sm_90"
_HEADER_SUFFIXES = frozenset({".h", ".hpp", ".hh", ".hxx", ".cuh", ".inl", ".inc"})
_MAX_HEADERS = 256
_MAX_MESSAGE = 4096
_MAX_HEADER_BYTES = 4 * 2**20


class BuildError(LoadError):
    """An extension does not compile. Its message ends with the compiler's log."""

    def __init__(self, name: str, result: BuildResult) -> None:
        super().__init__(f"extension {name!r} does not compile\n{result.log}".strip(), result.hint)
        self.result = result


def intercept_extension_builds(
    context: LoadContext, preference: Literal["auto", "fast", "nvcc"] = "auto"
) -> ExtensionBuilds:
    """Has `load_inline` and `load` ask `context.build`, from now on and in the whole process.

    A source may call them on import, when a model is constructed, or later.
    """
    from torch.utils import cpp_extension

    builds = ExtensionBuilds(context, preference)
    for original, replacement in (
        (cpp_extension.load_inline, builds.load_inline),
        (cpp_extension.load, builds.load),
    ):
        setattr(cpp_extension, original.__name__, _with_signature(original, replacement))
    return builds


class ExtensionBuilds:
    """What a source has had built."""

    def __init__(
        self, context: LoadContext, preference: Literal["auto", "fast", "nvcc"] = "auto"
    ) -> None:
        self._context = context
        self._preference = preference
        self._executed = False
        self.results: list[BuildResult] = []
        """Every successful build, in order."""

    def refuse_device_code(self) -> None:
        """Raises `Unsupported` if kernels have been built that the device at hand cannot run, and
        from now on whenever one is built."""
        self._executed = True
        if self._context.device.type == "cuda":
            return
        for result in self.results:
            if _has_device_code(result):
                architecture = result.manifest.get("architecture")
                raise Unsupported(
                    f"compiled for {architecture} ({result.way} way: {result.reason}); this "
                    f"device ({self._context.device.type}) cannot run it",
                    "Submit it to a server with an NVIDIA GPU.",
                )

    def load_inline(self, arguments: dict[str, Any]) -> ModuleType | str:
        """Answers `load_inline`, whose arguments are given by name."""
        functions = arguments.get("functions")
        if isinstance(functions, str):
            functions = [functions]
        if isinstance(functions, list | tuple):
            functions = {name: name for name in functions}
        if functions is not None and not isinstance(functions, dict):
            raise ValueError(
                f"Expected 'functions' to be a list or dict, but was {type(functions)}"
            )
        headers, folders = self._headers_below(_texts(arguments.get("extra_include_paths")))
        request = self._request(
            arguments,
            cpp_sources=_texts(arguments.get("cpp_sources")),
            cuda_sources=_texts(arguments.get("cuda_sources")),
            functions=functions,
            headers=headers,
            extra_include_paths=folders,
            implicit_headers=not arguments.get("no_implicit_headers"),
        )
        return self._build(request, arguments)

    def load(self, arguments: dict[str, Any]) -> ModuleType | str:
        """Answers `load`, whose arguments are given by name: its files are read here."""
        if arguments.get("is_standalone"):
            raise LoadError(
                "load(is_standalone=True) builds a program, which the judge does not run",
                "Build a Python module: leave is_standalone out.",
            )
        paths = [Path(path) for path in _texts(arguments.get("sources"))]
        headers, folders = self._headers_below(_texts(arguments.get("extra_include_paths")))
        for folder in dict.fromkeys(path.resolve().parent for path in paths):
            headers = dict(_headers(folder)) | headers
        texts = [(path, path.read_text(encoding="utf-8")) for path in paths]
        request = self._request(
            arguments,
            cpp_sources=[text for path, text in texts if path.suffix not in (".cu", ".cuh")],
            cuda_sources=[text for path, text in texts if path.suffix in (".cu", ".cuh")],
            headers=headers,
            extra_include_paths=folders,
            separate=True,
            implicit_headers=False,
        )
        return self._build(request, arguments)

    def _request(self, arguments: dict[str, Any], **fields: Any) -> ExtensionBuild:
        if arguments.get("sycl_sources") or arguments.get("with_sycl"):
            raise LoadError("SYCL sources are not built here", "Write the kernel in CUDA.")
        flags = ("extra_cflags", "extra_cuda_cflags", "extra_ldflags")
        return ExtensionBuild(
            name=arguments["name"],
            architecture=_architecture(self._context.device),
            preference=self._preference,
            **{flag: _texts(arguments.get(flag)) for flag in flags},
            **fields,
        )

    def _headers_below(self, folders: list[str]) -> tuple[dict[str, str], list[str]]:
        """Headers in folders that the source itself has written, and the other folders, where the
        builder looks for itself."""
        scratch = self._context.scratch.resolve()
        own = [Path(name).resolve() for name in folders]
        headers: dict[str, str] = {}
        for folder in own:
            if folder.is_relative_to(scratch):
                headers = dict(_headers(folder)) | headers
        return headers, [str(folder) for folder in own if not folder.is_relative_to(scratch)]

    def _build(self, request: ExtensionBuild, arguments: dict[str, Any]) -> ModuleType | str:
        result = self._context.build(request)
        if not result.ok:
            if result.fault == "unavailable":
                raise Unsupported(f"extension {request.name!r}: {result.log}", result.hint)
            if result.fault == "out_of_memory":
                raise MemoryError(f"building extension {request.name!r}: {result.log}")
            raise BuildError(request.name, result)
        self.results.append(result)
        if self._executed:
            self.refuse_device_code()
        if result.manifest["kind"] == "python_module":
            path = result.artefacts["module"]
            if not arguments.get("is_python_module", True):
                _load_operators(path)
                return str(path)
            return _import_module(request.name, path, result)
        path = result.artefacts["library"]
        if not arguments.get("is_python_module", True):
            self._load_library(request.name, result)
            return str(path)
        module = self._load_library(request.name, result)
        if request.functions is None and not result.manifest["functions"]:
            raise LoadError(
                f"extension {request.name!r} binds no functions to Python",
                "Name them in `functions`, or define a PYBIND11_MODULE.",
            )
        return module

    def _load_library(self, name: str, result: BuildResult) -> ModuleType:
        import torch

        namespace: str = result.manifest["namespace"]
        if namespace in _LIBRARIES:
            return _LIBRARIES[namespace]
        path = result.artefacts["library"]
        _load_operators(path)
        library = ctypes.CDLL(str(path))
        _register(library)
        if "cubin" in result.artefacts:
            _bind(library, result, load=self._context.device.type == "cuda")
        module = ModuleType(name)
        module.__file__ = str(path)
        operators = getattr(torch.ops, namespace)
        docs: dict[str, str] = result.manifest["docs"]
        for function, operator in result.manifest["functions"].items():
            overload = getattr(operators, operator).default
            setattr(module, function, _function(function, overload, docs.get(function)))
        _LIBRARIES[namespace] = module
        return module


_LIBRARIES: dict[str, ModuleType] = {}
"""Namespace → module of the libraries in this process: an operator can be registered once."""


def _function(name: str, overload: Callable[..., Any], doc: str | None) -> Callable[..., Any]:
    """An operator as a function of positional arguments, as load_inline binds them."""

    def call(*arguments: Any) -> Any:
        return overload(*arguments)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


def _register(library: ctypes.CDLL) -> None:
    """Has a library register its functions with torch."""
    message = ctypes.create_string_buffer(_MAX_MESSAGE)
    register = library.kerneljudge_register
    register.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    if register(message, len(message)):
        raise LoadError(f"the functions cannot be bound: {_decode(message)}")


def _bind(library: ctypes.CDLL, result: BuildResult, *, load: bool) -> None:
    """Gives a library its cubin; with `load`, has the driver load it now."""
    image = result.artefacts["cubin"].read_bytes()
    kernels: dict[str, str] = result.manifest["kernels"]
    texts = ctypes.c_char_p * len(kernels)
    message = ctypes.create_string_buffer(_MAX_MESSAGE)
    bind = library.kerneljudge_bind
    bind.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        texts,
        texts,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    failed = bind(
        image,
        len(image),
        texts(*(key.encode() for key in kernels)),
        texts(*(entry.encode() for entry in kernels.values())),
        len(kernels),
        int(load),
        message,
        len(message),
    )
    if failed:
        raise LoadError(f"the kernels cannot be loaded: {_decode(message)}")


def _decode(message: ctypes.Array[ctypes.c_char]) -> str:
    return message.value.decode(errors="replace")


def _load_operators(path: Path) -> None:
    import torch

    torch.ops.load_library(str(path))


def _import_module(name: str, path: Path, result: BuildResult) -> ModuleType:
    spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        # An undefined symbol: a function that is declared, and defined nowhere.
        log = f"{result.log}\nImportError: {error}".strip()
        raise BuildError(name, result.model_copy(update={"log": log})) from None
    return module


def _has_device_code(result: BuildResult) -> bool:
    return "cubin" in result.artefacts or bool(result.manifest.get("has_device_code"))


def _architecture(device: torch.device) -> str:
    import torch

    if device.type != "cuda":
        return _ARCHITECTURE_WITHOUT_GPU
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _with_signature(
    original: Callable[..., Any], replacement: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    """`replacement` behind the signature of `original`, with the TypeErrors of that."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            bound = signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise TypeError(f"{original.__name__}() {error}") from None
        bound.apply_defaults()
        return replacement(dict(bound.arguments))

    return call


def _texts(value: Any) -> list[str]:
    """One text or path, several, or None, as a list."""
    if value is None:
        return []
    if isinstance(value, str | Path):
        return [str(value)]
    return [str(item) for item in value]


def _headers(folder: Path) -> Iterator[tuple[str, str]]:
    """Every header below a folder, by its path from there. Raises `LoadError` for too many."""
    count = size = 0
    for path in _files(folder):
        if path.suffix not in _HEADER_SUFFIXES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        count += 1
        size += len(text)
        if count > _MAX_HEADERS or size > _MAX_HEADER_BYTES:
            raise LoadError(
                f"the headers under {folder} are more than {_MAX_HEADERS}, or than "
                f"{_MAX_HEADER_BYTES >> 20} MiB",
                "Keep the sources in a folder with only the headers that they need.",
            )
        yield str(path.relative_to(folder)), text


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
