"""The submitter's compiler options: which are accepted, and what they mean to each compiler.

Options are hostile input. What could run a program, write elsewhere or read a list of further
options is refused by name; what is accepted is passed as one argument, never through a shell.
nvcc runs its own commands through a shell, so characters that mean something to one are refused
in what it is given.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["CudaFlags", "FlagError", "HostFlags", "cuda_flags", "host_flags", "link_flags", "words"]


class FlagError(Exception):
    """An option that is not accepted."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(f"option {option!r}: {why}")
        self.option = option
        self.hint = "Remove the option, or say what it says in the source."


@dataclass
class HostFlags:
    """Options for g++."""

    arguments: list[str] = field(default_factory=list)
    """As they are passed, without those of the other fields."""
    standard: str | None = None
    """The language standard, such as `c++20`, if one is named."""
    optimisation: str | None = None
    """The last `-O…`, if any."""
    ordinary: bool = True
    """Whether they change no code generation: definitions, include folders and warnings only."""
    folders: list[str] = field(default_factory=list)
    """Folders and files that they name."""

    def extend(self, other: HostFlags) -> None:
        """Appends another list of options."""
        self.arguments += other.arguments
        self.standard = other.standard or self.standard
        self.optimisation = other.optimisation or self.optimisation
        self.ordinary = self.ordinary and other.ordinary
        self.folders += other.folders


@dataclass
class CudaFlags:
    """Options for nvcc, and what they come to where NVRTC and g++ take its place."""

    nvcc: list[str] = field(default_factory=list)
    """For nvcc, without those that name an architecture."""
    nvrtc: list[str] = field(default_factory=list)
    """For NVRTC."""
    host: HostFlags = field(default_factory=HostFlags)
    """For the C++ half of a CUDA source."""
    architectures: list[str] = field(default_factory=list)
    """The options that name an architecture, as they were given."""
    targets: list[str] = field(default_factory=list)
    """The machine code that they ask for: `sm_90a`."""
    only_nvcc: str | None = None
    """The first option that has no meaning to NVRTC."""

    def target(self, device: str) -> str | None:
        """The architecture to compile for a device such as `sm_90`: the most specific of those
        asked for that it runs. None where only nvcc's PTX could run there, or nothing."""
        if not self.architectures:
            return device
        number = device.rstrip("af")
        fitting = [target for target in self.targets if target.rstrip("af") == number]
        for suffix in ("a", "f", ""):
            if number + suffix in fitting:
                return number + suffix
        return None


def words(options: Iterable[str]) -> list[str]:
    """Options as torch's build file would give them to a shell: `"-O3 -g"` is two.

    Raises `FlagError` for unbalanced quotes.
    """
    found: list[str] = []
    for option in options:
        try:
            found += shlex.split(option)
        except ValueError as error:
            raise FlagError(option, str(error).lower()) from None
    return found


# --- g++

_JOINED_OR_SEPARATE = ("-D", "-U", "-I")
_SEPARATE = ("-isystem", "-iquote", "-idirafter", "-include", "-imacros")
_HARMLESS = frozenset({"-pipe", "-ansi", "-pedantic", "-pedantic-errors", "-w", "-fPIC", "-fpic"})
_OPTIMISATION = re.compile(r"-O(|[0-9]|s|g|z|fast)")
_DEBUG = re.compile(r"-g(|[0-3]|gdb[0-3]?|dwarf(-[2-5])?|column-info|split-dwarf)")
_WARNING = re.compile(r"-W(?![lpa],)[\w+=-]*")
_FEATURE = re.compile(r"-f(no-)?([\w-]+)(=[\w.,:+/-]*)?")
_MACHINE = re.compile(r"-m[\w=.,+-]+")
_LIBRARY = re.compile(r"-[lL].+")
# Features of g++ that read or write files of their own, or run programs.
_FEATURES_REFUSED = re.compile(
    r"plugin|dump|profile|auto-profile|opt-info|callgraph|module|self-test|save|checking|"
    r"compare-debug|stack-usage|use-ld|use-linker|lto|diagnostics-format|diagnostics-add|"
    r"diagnostics-set|test-coverage|branch-prob|ltrans|wpa|resolution|linker|ada|go-|pch|"
    r"preprocessed|directives-only|working-directory|record-gcc|trace|report|time-report|"
    r"mem-report|path-coverage|condition-coverage|debug-prefix|file-prefix|macro-prefix"
)


def host_flags(options: Sequence[str]) -> HostFlags:
    """Checks options for g++. Raises `FlagError` for one that is not accepted."""
    flags = HostFlags()
    waiting = iter(options)
    for option in waiting:
        if option[:2] in _JOINED_OR_SEPARATE:
            value = option[2:] or _value(option, waiting)
            flags.arguments.append(option[:2] + value)
            if option[:2] == "-I":
                flags.folders.append(value)
        elif option in _SEPARATE:
            value = _value(option, waiting)
            flags.arguments += [option, value]
            flags.folders.append(value)
        elif option.startswith("-std="):
            flags.standard = option[5:].replace("gnu++", "c++")
        elif _OPTIMISATION.fullmatch(option):
            flags.optimisation = option
        elif option in _HARMLESS or _WARNING.fullmatch(option):
            if option != "-fPIC":
                flags.arguments.append(option)
        elif _DEBUG.fullmatch(option) or _LIBRARY.fullmatch(option):
            continue  # debug information is not kept; libraries are named in extra_ldflags
        elif (feature := _FEATURE.fullmatch(option)) or _MACHINE.fullmatch(option):
            if feature and _FEATURES_REFUSED.match(feature.group(2)):
                raise FlagError(option, "not accepted: it has g++ read, write or run files")
            flags.arguments.append(option)
            flags.ordinary = False
        elif option == "-pthread":
            flags.arguments.append(option)
            flags.ordinary = False
        else:
            raise FlagError(option, "not an option that is accepted for g++")
    return flags


# --- the linker

_LINKER = frozenset(
    {
        *("--as-needed", "--no-as-needed", "--allow-shlib-undefined", "--no-undefined"),
        *("--start-group", "--end-group", "--whole-archive", "--no-whole-archive"),
        *("-Bsymbolic", "-Bsymbolic-functions", "-Bstatic", "-Bdynamic", "-E", "--export-dynamic"),
        *("-s", "-S", "--strip-all", "--strip-debug", "--gc-sections", "--no-gc-sections"),
        *("--enable-new-dtags", "--disable-new-dtags", "-O1", "-O2", "--build-id"),
    }
)
_LINKER_PREFIX = ("-rpath=", "-rpath-link=", "-z=", "-l", "-L", "--exclude-libs=")
_LINKER_VALUE = ("-rpath", "-rpath-link", "-z", "--exclude-libs")
_LINK_PLAIN = frozenset(
    {"-pthread", "-fopenmp", "-shared", "-s", "-static-libgcc", "-static-libstdc++", "-rdynamic"}
)
_OBJECT = re.compile(r"/[^\s]*\.(so(\.[0-9]+)*|a|o)")


def link_flags(options: Sequence[str]) -> list[str]:
    """Checks options for linking. Raises `FlagError` for one that is not accepted."""
    flags: list[str] = []
    waiting = iter(options)
    for option in waiting:
        if option in ("-l", "-L"):
            flags.append(option + _value(option, waiting))
        elif _LIBRARY.fullmatch(option) or option in _LINK_PLAIN or _OBJECT.fullmatch(option):
            flags.append(option)
        elif option.startswith("-Wl,"):
            flags.append("-Wl," + ",".join(_linker(option, option[4:].split(","))))
        elif option == "-Xlinker":
            flags += ["-Xlinker", *_linker(option, [_value(option, waiting)])]
        elif (
            _OPTIMISATION.fullmatch(option)
            or _DEBUG.fullmatch(option)
            or _WARNING.fullmatch(option)
            or option in _HARMLESS
        ):
            continue
        else:
            raise FlagError(option, "not an option that is accepted for the linker")
    return flags


def _linker(option: str, parts: list[str]) -> Iterator[str]:
    waiting = iter(parts)
    for part in waiting:
        if part in _LINKER or part.startswith(_LINKER_PREFIX):
            yield part
        elif part in _LINKER_VALUE:
            yield part
            yield _value(option, waiting)
        else:
            raise FlagError(option, f"{part!r} is not accepted for the linker")


# --- nvcc

# nvcc passes these on inside double quotes, and all else as it is.
_UNSAFE_QUOTED = re.compile(r'[$`"\\\n\r]')
_UNSAFE_BARE = re.compile(r"[^\w.,:=+/@%-]")
_JOINED = ("-D", "-U", "-I", "-O", "-l", "-L")
_ASSEMBLER = re.compile(
    r"-{1,2}(v|verbose|O[0-4]|opt-level(=[0-4])?|dlcm=\w+|dscm=\w+|flcm=\w+|fscm=\w+|"
    r"(def|force)-(load|store)-cache=\w+|w|disable-warnings|warn-(on-)?spills|"
    r"warn-(lmem-usage|on-local-memory-usage|double-usage|on-double-precision-use)|Werror|"
    r"warning-as-error|maxrregcount=\w+|register-usage-level=\d+|fmad=\w+|"
    r"allow-expensive-optimizations=\w+|disable-optimizer-constants|"
    r"suppress-stack-size-warning|suppress-[\w-]+-warning|generate-line-info|lineinfo|"
    r"device-debug|g|preserve-relocs|sp-bounds-check|uumn)"
)
_COMPUTE = re.compile(r"(?:compute|sm|lto)_(\d+[af]?)")


class _Nvcc:
    """Reads a list of nvcc's options into `CudaFlags`."""

    def __init__(self) -> None:
        self.flags = CudaFlags()

    def read(self, options: Sequence[str]) -> None:
        waiting = iter(options)
        for option in waiting:
            name, value = self._split(option)
            long, takes_value, handle = _NVCC.get(name, (name, False, None))
            if handle is None:
                raise FlagError(option, "not an option that is accepted for nvcc")
            if takes_value and value is None:
                value = _value(option, waiting)
            elif not takes_value and value is not None:
                raise FlagError(option, f"{name} takes no value")
            if value is not None and _UNSAFE.get(handle, _UNSAFE_BARE).search(value):
                raise FlagError(option, "characters that a shell would read are not accepted")
            handle(self, long, value or "")

    @staticmethod
    def _split(option: str) -> tuple[str, str | None]:
        name, equals, value = option.partition("=")
        if name not in _NVCC and option[:2] in _JOINED:
            return option[:2], option[2:]
        return name, value if equals else None

    def _pass(self, name: str, value: str) -> None:
        self.flags.nvcc.append(f"{name}={value}" if value else name)

    def define(self, name: str, value: str) -> None:
        self.flags.nvcc.append(name + value)
        self.flags.nvrtc.append(name + value)
        self.flags.host.arguments.append(name + value)

    def folder(self, name: str, value: str) -> None:
        self.define(name, value)
        self.flags.host.folders.append(value)

    def system(self, name: str, value: str) -> None:
        self.flags.nvcc += [name, value]
        self.flags.nvrtc.append(f"-I{value}")
        self.flags.host.arguments += [name, value]
        self.flags.host.folders.append(value)

    def preinclude(self, name: str, value: str) -> None:
        self.flags.nvcc += [name, value]
        self.flags.nvrtc.append(f"--pre-include={value}")
        self.flags.host.arguments += [name, value]
        self.flags.host.folders.append(value)

    def standard(self, name: str, value: str) -> None:
        self.flags.nvcc.append(f"-std={value}")
        self.flags.nvrtc.append(f"-std={value}")
        self.flags.host.standard = value

    def optimisation(self, name: str, value: str) -> None:
        # nvcc's -O is the host compiler's; device code is compiled at its own default.
        self.flags.nvcc.append(f"-O{value}")
        self.flags.host.optimisation = f"-O{value}"

    def target(self, name: str, value: str) -> None:
        if value in ("native", "all", "all-major"):
            return  # the builder has no device: the judge's own is meant
        found = _COMPUTE.search(value)
        if found is None:
            raise FlagError(f"{name}={value}", "names no architecture such as sm_90")
        self.flags.architectures.append(f"{name}={value}")
        codes = value.partition("code=")[2] if "code=" in value else value
        if name in ("-arch", "-code", "-gencode"):
            self.flags.targets += [
                f"sm_{match.group(1)}"
                for match in _COMPUTE.finditer(codes)
                if match.group(0).startswith("sm_")
            ]

    def device(self, name: str, value: str) -> None:
        """Means the same to nvcc and NVRTC."""
        self._pass(name, value)
        self.flags.nvrtc.append(f"-{name.lstrip('-')}" + (f"={value}" if value else ""))

    def nvcc_alone(self, name: str, value: str) -> None:
        """Of no consequence to NVRTC."""
        self._pass(name, value)

    def ignored(self, name: str, value: str) -> None:
        """Of no consequence to any compiler here."""

    def decisive(self, name: str, value: str) -> None:
        """Changes what is built in a way that only nvcc knows."""
        self._pass(name, value)
        self.flags.only_nvcc = self.flags.only_nvcc or f"{name}={value}" if value else name

    def relocatable(self, name: str, value: str) -> None:
        if value == "false":
            self._pass(name, value)
        else:
            self.decisive(name, value)

    def stream(self, name: str, value: str) -> None:
        if value == "legacy":
            self._pass(name, value)
        else:
            self.decisive(name, value)

    def assembler(self, name: str, value: str) -> None:
        for part in value.split(","):
            if not _ASSEMBLER.fullmatch(part):
                raise FlagError(f"{name}={value}", f"{part!r} is not accepted for ptxas")
        self.flags.nvcc += ["-Xptxas", value]
        self.flags.nvrtc += [f"--ptxas-options={part}" for part in value.split(",")]

    def compiler(self, name: str, value: str) -> None:
        host = host_flags([part for part in value.split(",") if part])
        self.flags.nvcc += ["-Xcompiler", value]
        self.flags.host.extend(host)

    def frontend(self, name: str, value: str) -> None:
        if not re.fullmatch(r"--?\w+(=\w+)?", value):
            raise FlagError(f"{name}={value}", "is not accepted for cudafe")
        self.flags.nvcc += ["-Xcudafe", value]


_Handler = Callable[[_Nvcc, str, str], None]
_NVCC: dict[str, tuple[str, bool, _Handler]] = {}
"""Every accepted name → the name that is passed on, whether it takes a value, what it does.
From NVIDIA's manuals of nvcc and NVRTC, release 13.0."""


def _accept(names: str, takes_value: bool, handle: _Handler) -> None:
    first, *_ = names.split()
    for name in names.split():
        _NVCC[name] = (first, takes_value, handle)


_accept("-D --define-macro", True, _Nvcc.define)
_accept("-U --undefine-macro", True, _Nvcc.define)
_accept("-I --include-path", True, _Nvcc.folder)
_accept("-isystem --system-include", True, _Nvcc.system)
_accept("-include --pre-include", True, _Nvcc.preinclude)
_accept("-std --std", True, _Nvcc.standard)
_accept("-O --optimize", True, _Nvcc.optimisation)
_accept("-arch --gpu-architecture", True, _Nvcc.target)
_accept("-code --gpu-code", True, _Nvcc.target)
_accept("-gencode --generate-code", True, _Nvcc.target)
_accept("--use_fast_math -use_fast_math", False, _Nvcc.device)
for _name in ("fmad", "ftz", "prec-div", "prec-sqrt", "maxrregcount"):
    _accept(f"-{_name} --{_name}", True, _Nvcc.device)
_accept("-lineinfo --generate-line-info", False, _Nvcc.device)
_accept("-G --device-debug", False, _Nvcc.device)
_accept("-restrict --restrict", False, _Nvcc.device)
_accept("-extra-device-vectorization --extra-device-vectorization", False, _Nvcc.device)
_accept("-w --disable-warnings", False, _Nvcc.device)
_accept("-diag-suppress --diag-suppress", True, _Nvcc.device)
_accept("-diag-warn --diag-warn", True, _Nvcc.nvcc_alone)
_accept("-diag-error --diag-error", True, _Nvcc.nvcc_alone)
_accept("-Werror --Werror", True, _Nvcc.nvcc_alone)
_accept("-Wno-deprecated-gpu-targets --Wno-deprecated-gpu-targets", False, _Nvcc.nvcc_alone)
_accept("-Wno-deprecated-declarations --Wno-deprecated-declarations", False, _Nvcc.nvcc_alone)
_accept("-Wreorder --Wreorder", False, _Nvcc.nvcc_alone)
_accept("-Xptxas --ptxas-options", True, _Nvcc.assembler)
_accept("-Xcompiler --compiler-options", True, _Nvcc.compiler)
_accept("-Xcudafe --cudafe-options", True, _Nvcc.frontend)
_accept("-rdc --relocatable-device-code", True, _Nvcc.relocatable)
_accept("-dc --device-c", False, _Nvcc.decisive)
_accept("-default-stream --default-stream", True, _Nvcc.stream)
_accept("-dopt --dopt", True, _Nvcc.decisive)
_accept("-Ofast-compile -Ofc --Ofast-compile", True, _Nvcc.decisive)
_accept("-expt-relaxed-constexpr --expt-relaxed-constexpr", False, _Nvcc.nvcc_alone)
for _name in ("-extended-lambda", "-expt-extended-lambda"):
    _accept(f"{_name} -{_name}", False, _Nvcc.nvcc_alone)
_accept("-res-usage --resource-usage", False, _Nvcc.ignored)
_accept("-v --verbose", False, _Nvcc.ignored)
_accept("-t --threads", True, _Nvcc.ignored)
_accept("-split-compile --split-compile", True, _Nvcc.ignored)
_accept("-g --debug", False, _Nvcc.ignored)
_accept("-m64", False, _Nvcc.ignored)
_accept("-m --machine", True, _Nvcc.ignored)
_accept("-l", True, _Nvcc.ignored)
_accept("-L", True, _Nvcc.ignored)
_accept("-cudart --cudart", True, _Nvcc.ignored)
_accept("-allow-unsupported-compiler --allow-unsupported-compiler", False, _Nvcc.nvcc_alone)
_accept("-src-in-ptx --source-in-ptx", False, _Nvcc.ignored)

_UNSAFE: dict[_Handler, re.Pattern[str]] = {
    **dict.fromkeys((_Nvcc.define, _Nvcc.folder, _Nvcc.system, _Nvcc.preinclude), _UNSAFE_QUOTED),
    _Nvcc.target: re.compile(r"[^\w.,=\[\]-]"),
}
"""What a value may not hold, where that is not `_UNSAFE_BARE`."""


def cuda_flags(options: Sequence[str]) -> CudaFlags:
    """Checks options for nvcc. Raises `FlagError` for one that is not accepted."""
    reader = _Nvcc()
    reader.read(options)
    return reader.flags


def _value(option: str, waiting: Iterator[str]) -> str:
    value = next(waiting, None)
    if value is None:
        raise FlagError(option, "a value is missing")
    return value
