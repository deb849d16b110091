"""The fast way: device code through NVRTC, the wrapper through g++, at once.

The wrapper's kernels are stand-ins (see `cuda_source`) that launch from the cubin through the
driver. Which template instances the cubin must hold is read off the compiled wrapper; where the
text already told them right, NVRTC has compiled them by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kerneljudge.building.cuda_source import (
    TAG,
    Joined,
    Kernel,
    SplitSource,
    Unfaithful,
    only_declares,
    split,
)
from kerneljudge.building.device_source import compile_device_source
from kerneljudge.building.flags import HostFlags
from kerneljudge.building.host_header import (
    HALF_MACROS,
    HostHeader,
    compile_flags,
    compile_support,
    find_header,
    write_header,
)
from kerneljudge.building.lexer import code_only
from kerneljudge.building.nvrtc import Compiled
from kerneljudge.building.process import Finished, run
from kerneljudge.building.sources import Extension
from kerneljudge.building.symbols import demangle, object_symbols, split_instance
from kerneljudge.building.toolchain import Toolchain

__all__ = ["CompileFailed", "FastExtension", "build_fast"]

_TAGGED = re.compile(rf"_ZTS(?P<key>\S*{TAG}(?P<index>\d+)\S*)")
_LONG = re.compile(r"(?<!long )\b(unsigned )?long\b(?! long)")
_FOREIGN = re.compile(r"\b(c10|at|torch|std)::|\{")
_ERROR = re.compile(r"\berror: (.*)")
# What the precompiled header leaves out, or is itself.
_LEFT_OUT = re.compile(
    r"kerneljudge|extension\.h|\b(py|pybind11|PYBIND11\w*|nn|optim|autograd|data|serialize|THP\w*|Py\w*)\b"
)


class CompileFailed(Exception):
    """A compiler refused; carries its messages."""

    def __init__(self, log: str, *, out_of_memory: bool = False, final: bool = False) -> None:
        super().__init__(log)
        self.log = log
        self.out_of_memory = out_of_memory
        self.final = final
        """Whether every other way would fail as well."""


@dataclass(frozen=True)
class FastExtension:
    """What the fast way makes."""

    library: Path
    """The shared library, which registers its functions with torch."""
    cubin: Path | None
    """The device code."""
    functions: dict[str, str]
    """Python name → operator under the namespace."""
    kernels: dict[str, str]
    """Key of a kernel → mangled name."""
    architecture: str | None
    """What the device code is for."""
    log: str
    """Warnings."""


@dataclass(frozen=True)
class _Plan:
    """The translation units."""

    device: SplitSource | None
    """The split CUDA source."""
    host: list[tuple[str, HostFlags]]
    """C++ texts and the submitter's options for each; the first has the kernels' stand-ins."""
    functions: dict[str, str]
    """Python name → C++ function; bound in the last of them."""


@dataclass(frozen=True)
class _Device:
    """Device code, compiled."""

    compiled: Compiled
    wide_int64: bool

    def failure(self) -> str | None:
        """The compiler's messages, if it failed."""
        return self.compiled.log if self.compiled.cubin is None else None


def build_fast(
    extension: Extension,
    namespace: str,
    *,
    scratch: Path,
    toolchain: Toolchain,
    include_cache: Path,
) -> FastExtension:
    """Builds an extension. `namespace` is that of its operators in torch.

    Raises `Unfaithful` where the source is not for this way, and `CompileFailed`.
    """
    architecture = _architecture(extension)
    plan = _plan(extension)
    headers = extension.write_headers(scratch)
    source = plan.device if plan.device is not None and plan.device.kernels else None
    logs: list[str] = []
    cubin: Path | None = None
    kernels: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:

        def compile_device(names: list[str]) -> Future[_Device]:
            assert source is not None
            return pool.submit(
                _compile_device, extension, source, names, architecture, toolchain, headers
            )

        guess = source.guess if source is not None else None
        device = compile_device(guess) if guess is not None else None
        host = _Host(extension, plan, namespace, scratch, toolchain, include_cache, headers)
        try:
            objects, warnings = host.compile(pool)
        except CompileFailed as failure:
            failure.final = _is_final(failure.log, extension)
            if device is not None and (log := device.result().failure()):
                raise CompileFailed(
                    f"{log}\n{failure.log}",
                    out_of_memory=failure.out_of_memory,
                    final=failure.final and _is_syntax(log),
                ) from None
            raise
        logs.append(warnings)
        if source is not None:
            wanted = _instances(source.kernels, objects[0], scratch, toolchain)
            names = list(dict.fromkeys(wanted.values()))
            if device is None or not set(map(_squeezed, names)) <= set(map(_squeezed, guess or [])):
                device = compile_device(names)
            done = device.result()
            if done.failure() is not None:
                raise CompileFailed(
                    done.compiled.log,
                    out_of_memory=done.compiled.out_of_memory,
                    final=_is_syntax(done.compiled.log),
                )
            if done.wide_int64 and any(map(_LONG.search, names)):
                raise Unfaithful("a kernel instance for long, which is not int64_t to NVRTC")
            lowered = {_squeezed(name): entry for name, entry in done.compiled.lowered.items()}
            kernels = {key: lowered[_squeezed(name)] for key, name in wanted.items()}
            assert done.compiled.cubin is not None
            cubin = scratch / "kernels.cubin"
            cubin.write_bytes(done.compiled.cubin)
            logs.append(done.compiled.log)
    library = _link(extension, objects, scratch, toolchain)
    return FastExtension(
        library=library,
        cubin=cubin,
        functions=_operators(plan.functions),
        kernels=kernels,
        architecture=architecture if cubin is not None else None,
        log="\n".join(log for log in logs if log),
    )


def _is_syntax(log: str) -> bool:
    """Whether all errors are of syntax. A name that is missing here, and is there where nvcc
    compiles, always gives another error as well."""
    errors = _ERROR.findall(log)
    return bool(errors) and all(error.startswith("expected ") for error in errors)


def _is_final(log: str, extension: Extension) -> bool:
    """Whether g++ would refuse the source as torch compiles it, too."""
    if extension.cuda:
        return _is_syntax(log)
    return bool(_ERROR.search(log)) and not _LEFT_OUT.search(log)


# --- what is compiled


def _architecture(extension: Extension) -> str:
    flags = extension.cuda_flags
    if flags.only_nvcc is not None:
        raise Unfaithful(f"nvcc option {flags.only_nvcc}")
    target = flags.target(extension.request.architecture)
    if target is None:
        raise Unfaithful(f"nvcc options name another architecture ({flags.architectures[0]})")
    return target


def _plan(extension: Extension) -> _Plan:
    if len(extension.cuda) > 1 or len(extension.cpp) > 1:
        raise Unfaithful("several files of one kind")
    for name, text in extension.request.headers.items():
        if re.search(rb"<<<|__(global|managed|constant)__", code_only(text.encode())):
            raise Unfaithful(f"kernels or device variables in the header {name}")
    cuda = extension.cuda[0] if extension.cuda else None
    cpp = extension.cpp[0] if extension.cpp else None
    bound = extension.request.functions
    if cpp is None:
        if cuda is None:
            raise CompileFailed("the extension has no sources")
        source = split(cuda)
        return _planned(bound, source, [(source.host, extension.cuda_flags.host)])
    declares_only, names, declarations = only_declares(cpp)
    bare = code_only(cpp.code)
    launches = re.search(rb"<<<|__(global|device|constant|shared)__", bare) is not None
    module = b"PYBIND11_MODULE" in bare
    if cuda is None and not launches:
        wrapper = split(cpp) if module else None
        text = cpp.with_lines(cpp.code) if wrapper is None else wrapper.host
        return _planned(bound, wrapper, [(text, extension.host_flags)])
    if launches:
        source = split(cuda or Joined(()), wrappers=cpp)
        flags = HostFlags()
        flags.extend(extension.cuda_flags.host)
        flags.extend(extension.host_flags)
        return _planned(bound, source, [(source.host, flags)])
    assert cuda is not None
    source = split(cuda)
    if declares_only:
        text = source.host + declarations
        return _planned(bound, source, [(text, extension.cuda_flags.host)])
    if any(name.rpartition("::")[2] not in names for name in bound or {}):
        # The C++ source does not declare it: torch refuses that, and here it may be found.
        source = split(cuda, wrappers=cpp)
        return _planned(bound, source, [(source.host, extension.cuda_flags.host)])
    text = cpp.with_lines(cpp.code)
    if module:
        wrappers = split(cpp)
        text = wrappers.host
        source.bindings.update(wrappers.bindings)
    return _planned(
        bound, source, [(source.host, extension.cuda_flags.host), (text, extension.host_flags)]
    )


def _planned(
    bound: dict[str, str] | None, source: SplitSource | None, host: list[tuple[str, HostFlags]]
) -> _Plan:
    found = source.bindings if source is not None else {}
    if bound is not None and found:
        raise Unfaithful("a PYBIND11_MODULE beside `functions`")
    return _Plan(source, host, found if bound is None else {name: name for name in bound})


# --- device code


def _compile_device(
    extension: Extension,
    source: SplitSource,
    names: list[str],
    architecture: str,
    toolchain: Toolchain,
    headers: Path,
) -> _Device:
    assert toolchain.torch is not None
    flags = extension.cuda_flags
    options = [
        f"-arch={architecture}",
        *([] if flags.host.standard else [f"-std={toolchain.torch.standard}"]),
        *HALF_MACROS,
        *_versions(toolchain),
        *flags.nvrtc,
        *(f"-I{folder}" for folder in (headers, *toolchain.device_includes)),
    ]
    compiled, wide_int64 = compile_device_source(
        source.device,
        names,
        options,
        includes=source.device_headers,
        std=source.device_std,
        as_nvcc=True,
    )
    return _Device(compiled, wide_int64)


def _versions(toolchain: Toolchain) -> list[str]:
    """The versions that CUDA's own headers define, which torch includes before any source."""
    headers = toolchain.device_headers
    assert headers is not None
    return [f"-D{name}={headers.version}" for name in ("CUDA_VERSION", "CUDART_VERSION")]


def _instances(
    kernels: list[Kernel], compiled: Path, scratch: Path, toolchain: Toolchain
) -> dict[str, str]:
    """The kernels that the compiled wrapper can launch: key → name expression."""
    assert toolchain.nm is not None
    found: dict[str, str] = {}
    for symbol in object_symbols(toolchain.nm, compiled, scratch):
        match = _TAGGED.fullmatch(symbol)
        if match is None:
            continue
        kernel = kernels[int(match.group("index"))]
        text = demangle(symbol)
        arguments = None if text is None else split_instance(text, f"{TAG}{kernel.index}")
        if arguments is None:
            raise Unfaithful(f"an instance of kernel {kernel.name} that has no name")
        if not kernel.is_template:
            found[match.group("key")] = kernel.name
            continue
        arguments = arguments.replace("(anonymous namespace)::", "")
        if _FOREIGN.search(arguments):
            raise Unfaithful(f"kernel {kernel.name}<{arguments}>")
        found[match.group("key")] = f"{kernel.name}<{arguments}>"
    return found


def _squeezed(name: str) -> str:
    return re.sub(r"\s*([<>,])\s*", r"\1", name)


# --- the wrapper


@dataclass(frozen=True)
class _Host:
    """The C++ texts, to be compiled."""

    extension: Extension
    plan: _Plan
    namespace: str
    scratch: Path
    toolchain: Toolchain
    include_cache: Path
    headers: Path

    def compile(self, pool: ThreadPoolExecutor) -> tuple[list[Path], str]:
        """The objects, that of the support code last, and warnings. Raises `CompileFailed`."""
        ready = find_header(self.toolchain, self.include_cache)
        fitting = [_fits(flags, self.toolchain) for _, flags in self.plan.host]
        plain = None
        if ready is None or not all(fitting):
            plain = write_header(self.scratch / "plain")
        jobs: dict[Path, Future[Finished]] = {}
        for number, (text, flags) in enumerate(self.plan.host):
            if number == len(self.plan.host) - 1:
                text += _bindings(self.plan.functions, self.namespace)
            path = self.scratch / f"host{number}.cpp"
            path.write_text(text, encoding="utf-8")
            header = ready if ready is not None and fitting[number] else plain
            assert header is not None
            command = self._command(path, flags, header)
            jobs[path.with_suffix(".o")] = pool.submit(
                run, command, scratch=self.scratch, search=_search(self.toolchain)
            )
        if ready is None:
            assert plain is not None
            jobs[plain.support] = pool.submit(compile_support, self.toolchain, plain, self.scratch)
        done = [job.result() for job in jobs.values()]
        log = "\n".join(filter(None, (finished.output.strip() for finished in done)))
        if not all(finished.ok for finished in done):
            raise CompileFailed(log, out_of_memory=any(each.out_of_memory for each in done))
        return [*jobs, *([ready.support] if ready is not None else [])], log

    def _command(self, path: Path, flags: HostFlags, header: HostHeader) -> list[str | Path]:
        assert self.toolchain.cxx is not None
        own = [f"-std={flags.standard}"] if flags.standard else []
        if flags.optimisation == "-Ofast":
            own.append("-Ofast")
        return [
            self.toolchain.cxx,
            *compile_flags(self.toolchain),
            *own,
            f"-DTORCH_EXTENSION_NAME={self.extension.request.name}",
            f"-I{header.shims}",
            f"-I{self.headers}",
            *_user_arguments(flags),
            "-include",
            header.path,
            "-c",
            path,
            "-o",
            path.with_suffix(".o"),
        ]


def _operators(functions: dict[str, str]) -> dict[str, str]:
    """Python name → operator."""
    return {name: "call_" + name.replace("::", "_") for name in functions}


def _bindings(functions: dict[str, str], namespace: str) -> str:
    operators = _operators(functions)
    bound = ", ".join(
        f'::kerneljudge::bind<decltype(&{target}), &{target}>("{operators[name]}")'
        for name, target in (
            (name, "::" + function.removeprefix("::")) for name, function in functions.items()
        )
    )
    return (
        '\n#line 1 "functions"\n'
        "static const ::kerneljudge::Functions kerneljudge_functions("
        f'"{namespace}", {{{bound}}});\n'
    )


def _fits(flags: HostFlags, toolchain: Toolchain) -> bool:
    """Whether the precompiled header is valid under the submitter's options."""
    assert toolchain.torch is not None
    return (
        flags.ordinary
        and flags.standard in (None, toolchain.torch.standard)
        and flags.optimisation != "-Ofast"
    )


def _user_arguments(flags: HostFlags) -> list[str]:
    """Without the options that turn operators of half on or off: they are the device half's."""
    switches = {macro[2:] for macro in HALF_MACROS}
    return [
        argument
        for argument in flags.arguments
        if argument[:2] not in ("-D", "-U") or argument[2:].partition("=")[0] not in switches
    ]


def _link(
    extension: Extension, objects: Iterable[Path], scratch: Path, toolchain: Toolchain
) -> Path:
    assert toolchain.cxx is not None
    assert toolchain.torch is not None
    library = scratch / "extension.so"
    torch = ["c10", "torch_cpu", "torch"]
    if toolchain.has_torch_streams:
        torch[1:1] = ["c10_cuda"]
        torch.append("torch_cuda")
    runtime = toolchain.cudart
    folders = [toolchain.torch.libraries, *toolchain.library_folders]
    folders += [folder / "stubs" for folder in toolchain.library_folders]
    argv: list[str | Path] = [
        toolchain.cxx,
        "-shared",
        "-o",
        library,
        *objects,
        # Its own symbols come first, and none may be missing: torch would find out at import.
        "-Wl,-Bsymbolic,--no-undefined,--as-needed",
        *extension.link_flags,
        *(f"-L{folder}" for folder in folders),
        *(f"-l{name}" for name in torch),
    ]
    if runtime is not None:
        argv += [runtime, f"-Wl,-rpath,{runtime.parent}"]
    done = run(argv, scratch=scratch, search=_search(toolchain))
    if not done.ok:
        raise CompileFailed(done.output.strip(), out_of_memory=done.out_of_memory)
    return library


def _search(toolchain: Toolchain) -> list[Path]:
    return [toolchain.cxx.parent] if toolchain.cxx is not None else []
