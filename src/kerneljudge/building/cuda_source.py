"""Splits CUDA sources into the half for NVRTC and the half for g++, on their syntax tree.

The device half keeps kernels, device functions, and the types and constants that they use. The
host half keeps the rest, with each kernel's body replaced by a stand-in that launches it, and each
`kernel<<<...>>>(...)` by a call of the stand-in: what nvcc itself does, so that overloads, default
arguments, conversions and template arguments are the C++ compiler's own business. Both halves have
the lines of the source.

Where the tree does not tell for sure what nvcc would do, `Unfaithful` says why.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerneljudge.building.device_source import STD_ON_DEVICE
from kerneljudge.building.edits import Edits
from kerneljudge.building.lexer import (
    Token,
    blank,
    code_only,
    macros,
    matching_parenthesis,
    tokens,
)
from kerneljudge.building.syntax import (
    ParseError,
    body_of,
    cast_value,
    first_identifier,
    function_declarator,
    function_name,
    nodes,
    parameters_of,
    parse,
    text_of,
)

if TYPE_CHECKING:
    from tree_sitter import Node

__all__ = ["TAG", "Joined", "Kernel", "SplitSource", "Unfaithful", "only_declares", "split"]

TAG = "kerneljudge_tag_"
"""Prefix of the types by which a stand-in names its kernel: `kerneljudge_tag_3<float>`."""

# Words that a macro may consist of that is nothing but specifiers.
_SPECIFIERS = frozenset(
    {
        *("__global__", "__device__", "__host__", "__constant__", "__shared__"),
        *("__forceinline__", "__noinline__", "__inline__", "inline", "static", "constexpr"),
    }
)
_TORCH_SPECIFIERS: dict[str, frozenset[str]] = {
    "C10_DEVICE": frozenset({"__device__"}),
    "C10_HOST": frozenset({"__host__"}),
    "C10_HOST_DEVICE": frozenset({"__host__", "__device__"}),
    "C10_ALWAYS_INLINE": frozenset(),
}
# Attributes with arguments that the grammar does not know.
_ATTRIBUTES = frozenset(
    {
        *("__align__", "__cluster_dims__", "__maxnreg__", "__block_size__"),
        *("C10_LAUNCH_BOUNDS_0", "C10_LAUNCH_BOUNDS_1", "C10_LAUNCH_BOUNDS_2"),
    }
)

_HOST_NAMESPACES = frozenset({"torch", "at", "c10", "caffe2", "pybind11", "py"})
_DEVICE_NAMESPACES = frozenset(
    {"nvcuda", "cooperative_groups", "cub", "cute", "cutlass", "thrust", "cuda"}
)
_HOST_HEADERS = (
    *("torch/", "ATen/", "c10/", "caffe2/", "pybind11/", "Python.h"),
    *("cublas", "cudnn", "cusparse", "cusolver", "cufft", "curand.h", "nccl", "nvml"),
)
_DEVICE_HEADERS = (
    *("cub/", "thrust/", "cuda/", "cooperative_groups", "nv/", "mma.h"),
    *("cuda_pipeline", "cuda_awbarrier", "curand_kernel.h", "curand_mtgp32"),
)
_COMPILER_MACROS = frozenset(
    {"__CUDACC__", "__NVCC__", "__CUDACC_RTC__", "__CUDACC_VER_MAJOR__", "__CUDACC_VER_MINOR__"}
)
# Macros that both halves agree on, and that nobody defines here.
_KNOWN_MACROS = frozenset(
    {
        *("defined", "__has_include", "__cplusplus", "__CUDA_ARCH__", "CUDA_VERSION"),
        *("CUDART_VERSION", "USE_ROCM", "__HIPCC__", "__HIP_PLATFORM_AMD__", "__HIP__"),
        *("_MSC_VER", "_WIN32", "__APPLE__", "__ROCM__", "__HIP_DEVICE_COMPILE__"),
    }
)
# Macros that headers or compilers define: NVRTC is given neither the one nor the other.
_HEADER_MACRO = re.compile(r"_|TORCH|AT_|C10|CAFFE2|CUDA|CUDNN|CUBLAS|CUB_|THRUST|CCCL|NV|INT|FLT")
_CONDITION = re.compile(
    rb"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|elif|elifdef|elifndef)\b((?:\\\r?\n|[^\n])*)",
    re.MULTILINE,
)
# Functions of CUDA's runtime that take a kernel or a device variable by its host symbol.
_BY_SYMBOL = re.compile(
    r"cuda(Func(Get|SetCache|SetShared)\w*|Occupancy\w+|Launch\w*Kernel\w*|Memcpy(To|From)Symbol\w*"
    r"|GetSymbol\w+|GetFuncBySymbol|GetKernel|GraphAdd\w*Kernel\w*|GraphAddNode\w*"
    r"|Graph(Exec)?KernelNodeSetParams|GraphMemcpyNode\w*Symbol|BindTexture\w*|BindSurface\w*)"
)
_SET_ATTRIBUTE = "cudaFuncSetAttribute"
_HOST_MACROS = re.compile(r"(TORCH|PYBIND11|C10|REGISTER|AT)_\w+")
_CLASSES = ("struct_specifier", "class_specifier", "union_specifier")
# Template arguments that a demangler writes as a source does.
_PLAIN_ARGUMENTS = frozenset(
    {
        *("float", "double", "int", "char", "short", "long", "bool", "true", "false"),
        *("__half", "__half2", "__nv_bfloat16", "__nv_bfloat162"),
        *("float2", "float4", "double2", "int2", "int4"),
    }
)


_DIRECTIVE = re.compile(rb"^[ \t]*#(?:\\\r?\n|[^\n])*", re.MULTILINE)
_KEPT = ("comment", "preproc_def", "preproc_function_def", "preproc_call")


class Unfaithful(Exception):
    """The source cannot be split with certainty; the message says what stands in the way."""


@dataclass(frozen=True)
class Joined:
    """Sources that are compiled as one, each with a label for messages."""

    units: tuple[tuple[str, str], ...]
    """Label and text of each."""

    @property
    def code(self) -> bytes:
        """The sources, one below the other."""
        return b"".join(text.encode() + b"\n" for _, text in self.units)

    def with_lines(self, code: bytes) -> str:
        """`code`, which has the lines of `self.code`, with directives that name the sources."""
        lines = code.split(b"\n")
        out: list[bytes] = []
        at = 0
        for label, text in self.units:
            count = text.count("\n") + 1
            out.append(f'#line 1 "{label}"'.encode())
            out += lines[at : at + count]
            at += count
        return b"\n".join(out).decode() + "\n"


@dataclass(frozen=True)
class Kernel:
    """A `__global__` function that the source defines."""

    index: int
    """Its number, which its tag bears."""
    name: str
    """Its qualified name, without unnamed namespaces; a specialisation's with its arguments."""
    is_template: bool
    """Whether it needs template arguments."""
    conditional: bool
    """Whether it stands between `#if` and `#endif`."""


@dataclass
class SplitSource:
    """The two halves."""

    device: str
    """For NVRTC."""
    host: str
    """For g++."""
    kernels: list[Kernel]
    """The kernels, by their index."""
    guess: list[str] | None
    """Name expressions of the instances that are launched, as far as the text tells; None where
    only the compiled host half can tell."""
    bindings: dict[str, str]
    """Python name → C++ function, of a PYBIND11_MODULE that does nothing else."""
    defined: set[str]
    """Functions of the host half that are defined at namespace scope, by their own names."""
    declared: set[str]
    """Functions of the host half that are declared there."""
    device_headers: set[str]
    """What the device half includes."""
    device_std: set[str]
    """The members of `std` that it names."""


def split(joined: Joined, *, wrappers: Joined | None = None) -> SplitSource:
    """Splits a CUDA source. Raises `Unfaithful`.

    `wrappers` is a C++ source that is to follow in the same translation unit.
    """
    units = joined.units if wrappers is None else (*joined.units, *wrappers.units)
    try:
        return _Splitter(Joined(units), wrappers_at=len(joined.code)).split()
    except ParseError as error:
        raise Unfaithful(str(error)) from None


def only_declares(joined: Joined) -> tuple[bool, set[str], str]:
    """Whether a C++ source only declares functions, beside includes, macros and `using`.

    Also the names of the functions that it declares or defines, and its text without default
    arguments: those may be given once only where the definition is in the same translation unit.
    """
    code = joined.code
    root = parse(code)
    half = Edits(code)
    names: set[str] = set()
    only = not root.has_error
    for node in root.children:
        declarator = function_declarator(node)
        if declarator is not None:
            names.add(function_name(declarator))
            _strip_defaults(half, declarator)
        if (node.type != "declaration" or declarator is None) and node.type not in (
            *("comment", "preproc_include", "preproc_def", "preproc_function_def"),
            *("preproc_call", "using_declaration", "namespace_alias_definition", ";"),
            "alias_declaration",
        ):
            only = False
    return only, names, joined.with_lines(half.text())


@dataclass(frozen=True)
class _Place:
    """Where a declaration stands."""

    scope: tuple[str | None, ...] = ()
    """The namespaces around it; None for an unnamed one."""
    conditional: bool = False
    """Whether it is between `#if` and `#endif`."""


@dataclass(frozen=True)
class _Item:
    """A declaration at namespace scope."""

    node: Node
    """The declaration itself."""
    start: int
    """Where it begins, with its template header, linkage and specifiers in macros."""
    end: int
    """Where it ends."""
    gap: int
    """Where what comes before `node` ends."""
    template: Node | None
    """Its template header."""
    place: _Place

    @property
    def stretch(self) -> tuple[int, int]:
        """All of its text."""
        return self.start, self.end


@dataclass(frozen=True)
class _Masked:
    """Text that the parser does not see."""

    start: int
    end: int
    words: frozenset[str]
    """The specifiers that it stands for."""


class _Splitter:
    """Walks one source."""

    def __init__(self, joined: Joined, wrappers_at: int) -> None:
        self._joined = joined
        self._wrappers_at = wrappers_at
        self._code = joined.code
        self._bare = code_only(self._code)
        self._tokens = [t for t in tokens(self._bare) if t.kind not in ("space", "comment")]
        self._starts = [token.start for token in self._tokens]
        self._macros = macros(self._bare)
        self._masked: list[_Masked] = []
        self._device = Edits(self._code)
        self._host = Edits(self._code)
        self._device_stretches: list[tuple[int, int]] = []
        self._host_stretches: list[tuple[int, int]] = []
        self._both_sides: list[tuple[str, tuple[int, int]]] = []
        self._kernels: list[Kernel] = []
        self._launches: list[Node] = []
        self._device_variables: set[str] = set()
        self._device_aliases: set[str] = set()
        self._headers: set[str] = set()
        self._bindings: dict[str, str] = {}
        self._defined: set[str] = set()
        self._declared: set[str] = set()

    def split(self) -> SplitSource:
        self._refuse_what_only_nvcc_knows()
        self._items(parse(self._mask()).children, _Place())
        self._prune_both_sides()
        self._check_halves()
        return SplitSource(
            device=self._joined.with_lines(self._device.text()),
            host=self._joined.with_lines(self._host.text()),
            kernels=self._kernels,
            guess=self._guess(),
            bindings=self._bindings,
            defined=self._defined,
            declared=self._declared,
            device_headers=self._headers,
            device_std=set().union(*map(self._std_names, self._device_stretches)),
        )

    # --- the text as a whole

    def _refuse_what_only_nvcc_knows(self) -> None:
        names = self._names((0, len(self._code)))
        if found := names & _COMPILER_MACROS:
            raise Unfaithful(f"the source asks which compiler compiles it ({min(found)})")
        if "__managed__" in names:
            raise Unfaithful("a __managed__ variable")
        for name, (_, text) in self._macros.items():
            if b"<<<" in text:
                raise Unfaithful(f"macro {name} launches kernels")
            called = {word.word for word in tokens(text) if word.kind == "name"}
            if _SET_ATTRIBUTE in called or any(map(_BY_SYMBOL.fullmatch, called)):
                raise Unfaithful(f"macro {name} calls CUDA with a kernel or device variable")
        for condition in _CONDITION.findall(self._bare):
            for word in tokens(condition):
                if word.kind != "name" or word.word in self._macros or word.word in _KNOWN_MACROS:
                    continue
                if _HEADER_MACRO.match(word.word):
                    raise Unfaithful(f"the source asks for the macro {word.word}")

    def _mask(self) -> bytes:
        """The source for the parser: without the specifiers that the grammar does not know."""
        specifiers = dict(_TORCH_SPECIFIERS)
        for _ in range(4):  # macros of macros
            for name, (takes, text) in self._macros.items():
                words = text.decode(errors="replace").split()
                if words and not takes and all(w in _SPECIFIERS or w in specifiers for w in words):
                    specifiers[name] = frozenset().union(
                        *(specifiers.get(word, frozenset({word})) for word in words)
                    )
        masked = bytearray(self._code)
        directives = [match.span() for match in _DIRECTIVE.finditer(self._bare)]
        starts = [start for start, _ in directives]
        for index, token in enumerate(self._tokens):
            name = token.word
            if name not in specifiers and name not in _ATTRIBUTES:
                continue
            nearest = bisect_left(starts, token.start) - 1
            if nearest >= 0 and token.start < directives[nearest][1]:
                continue
            end = token.end
            if name in _ATTRIBUTES:
                bracket = self._tokens[index + 1] if index + 1 < len(self._tokens) else None
                closed = (
                    bracket
                    and bracket.text == b"("
                    and matching_parenthesis(self._bare, bracket.start)
                )
                if not closed:
                    continue
                end = closed
            self._masked.append(_Masked(token.start, end, specifiers.get(name, frozenset())))
            masked[token.start : end] = blank(self._code[token.start : end])
        return bytes(masked)

    # --- items at namespace scope

    def _items(self, nodes: Iterable[Node], place: _Place) -> None:
        previous: Node | None = None
        for node in nodes:
            self._item(node, previous.end_byte if previous else node.start_byte, place)
            previous = node

    def _item(self, node: Node, gap: int, place: _Place) -> None:
        kind = node.type
        if not node.is_named or kind in _KEPT:
            return
        if kind == "preproc_include":
            self._include(node)
        elif kind.startswith("preproc_"):
            inside = [
                child
                for index, child in enumerate(node.children)
                if node.field_name_for_child(index) not in ("condition", "name")
            ]
            self._items(inside, _Place(place.scope, conditional=True))
        elif kind == "namespace_definition":
            name = node.child_by_field_name("name")
            names = [None] if name is None else re.split(r"\s*::\s*", text_of(name))
            self._items(body_of(node).children, _Place((*place.scope, *names), place.conditional))
        elif kind == "linkage_specification":
            body = body_of(node)
            if body.type == "declaration_list":
                self._items(body.children, place)
            else:
                self._declare(self._item_of(node, body, gap, place))
        elif kind == "template_declaration":
            inner = node.named_children[-1]
            if inner.type == "template_declaration":
                raise self._unsure(node)
            self._declare(self._item_of(node, inner, gap, place))
        else:
            self._declare(self._item_of(node, node, gap, place))

    def _item_of(self, outer: Node, node: Node, gap: int, place: _Place) -> _Item:
        """`gap` is where what comes before `outer` ends."""
        start = min(
            (mask.start for mask in self._masked if gap <= mask.start < outer.start_byte),
            default=outer.start_byte,
        )
        if node is not outer:
            before = node.prev_sibling
            gap = before.end_byte if before is not None else node.start_byte
        template = outer.child_by_field_name("parameters") if outer is not node else None
        return _Item(node, start, outer.end_byte, gap, template, place)

    def _include(self, node: Node) -> None:
        path = node.child_by_field_name("path")
        header = "" if path is None else text_of(path).strip('<>" ')
        if not header or path is None or path.type == "identifier":
            raise self._unsure(node)
        if header.startswith(("cutlass/", "cute/")):
            raise Unfaithful("CUTLASS")
        if header.startswith(_HOST_HEADERS):
            if header.endswith(".cuh"):
                raise Unfaithful(f"device code of torch's own ({header})")
            self._device.replace(node.start_byte, node.end_byte)
            return
        self._headers.add(header)
        if header.startswith(_DEVICE_HEADERS):
            self._host.replace(node.start_byte, node.end_byte)

    def _declare(self, item: _Item) -> None:
        kind = item.node.type
        if kind == "function_definition":
            self._function(item)
        elif kind == "declaration" and function_declarator(item.node) is not None:
            self._prototype(item)
        elif kind == "declaration":
            self._variable(item)
        elif kind in _CLASSES:
            self._class(item)
        elif kind in (
            *("enum_specifier", "static_assert_declaration", "concept_definition"),
            *("type_definition", "alias_declaration"),
        ):
            self._type(item)
        elif kind in ("using_declaration", "namespace_alias_definition"):
            self._using(item)
        elif kind == "template_instantiation":
            on_device = self._names(item.stretch) & {"__global__", "__device__"}
            (self._host if on_device else self._device).replace(*item.stretch)
        elif kind == "expression_statement":
            self._macro_call(item)
        else:
            raise self._unsure(item.node)

    # --- functions

    def _function(self, item: _Item) -> None:
        node = item.node
        declarator = function_declarator(node)
        if declarator is None:
            raise self._unsure(node)
        name = function_name(declarator)
        if node.child_by_field_name("type") is None and node.named_children[0] == declarator:
            self._macro_definition(item, name)
            return
        body = node.child_by_field_name("body")
        if body is None:  # = default, or a function-try-block
            raise self._unsure(node)
        words = self._specifiers(node, item.gap, declarator.start_byte)
        on_device = bool(words & {"__global__", "__device__"})
        self._check_errors(node, body, on_device=on_device)
        if "__global__" in words:
            self._kernel(item, declarator, body)
        elif "__device__" in words and "__host__" not in words:
            self._keep_on_device(item)
            self._host.replace(*item.stretch)
        elif "__device__" in words:
            self._keep_on_device(item)
            self._both_sides.append((name, item.stretch))
        elif "constexpr" in words and not self._is_of_host(item.stretch):
            self._device_stretches.append(item.stretch)
            self._keep_on_host(item)
            self._defined.add(name)
        else:
            self._device.replace(*item.stretch)
            self._keep_on_host(item)
            self._defined.add(name)

    def _macro_definition(self, item: _Item, name: str) -> None:
        """`NAME(...) { ... }`: what PYBIND11_MODULE and TORCH_LIBRARY look like."""
        if name == "PYBIND11_MODULE":
            for statement in body_of(item.node).named_children:
                binding = _binding(statement)
                if binding is None and statement.type != "comment":
                    raise Unfaithful("a PYBIND11_MODULE with more than m.def(name, function)")
                self._bindings.update([binding] if binding else [])
            self._device.replace(*item.stretch)
            self._host.replace(*item.stretch)
        elif _HOST_MACROS.fullmatch(name) and name not in self._macros:
            self._device.replace(*item.stretch)
            self._keep_on_host(item)
        else:
            raise Unfaithful(f"{name}(...) {{...}} is no function that can be read")

    def _prototype(self, item: _Item) -> None:
        declarator = function_declarator(item.node)
        assert declarator is not None
        if item.node.has_error:
            raise self._unsure(item.node)
        words = self._specifiers(item.node, item.gap, declarator.start_byte)
        if "__global__" in words:
            self._drop_attributes(item)
        elif "__device__" in words:
            if "__host__" not in words:
                self._host.replace(*item.stretch)
        else:
            self._device.replace(*item.stretch)
            self._host_stretches.append(item.stretch)
            name = function_name(declarator)
            self._declared.add(name)
            if item.start >= self._wrappers_at and name in self._defined:
                # Default arguments may be given once in a translation unit.
                _strip_defaults(self._host, declarator)

    def _kernel(self, item: _Item, declarator: Node, body: Node) -> None:
        called = declarator.child_by_field_name("declarator")
        parameters = declarator.child_by_field_name("parameters")
        if called is None or parameters is None:
            raise self._unsure(item.node)
        heads = [
            self._template_parameter(child)
            for child in (item.template.named_children if item.template else [])
            if child.type != "comment"
        ]
        specialised = called.type == "template_function" and item.template is not None
        if called.type != "identifier" and (not specialised or heads):
            raise Unfaithful(f"kernel {text_of(called)} is declared in an unusual way")
        name = "::".join([*(part for part in item.place.scope if part), text_of(called)])
        kernel = Kernel(len(self._kernels), name, bool(heads), item.place.conditional)
        if any(
            other.name == name and not (other.conditional and kernel.conditional)
            for other in self._kernels
        ):
            raise Unfaithful(f"kernel {name} is overloaded")
        self._kernels.append(kernel)
        self._keep_on_device(item)

        tag = f"{TAG}{kernel.index}"
        head = f"struct {tag} {{}}; "
        if heads:
            head = f"template <{', '.join(text for text, _ in heads)}> {head}"
            tag += f"<{', '.join(argument for _, argument in heads)}>"
        arguments = [
            self._parameter(child, position)
            for position, child in enumerate(parameters_of(parameters))
        ]
        stand_in = (
            f" {{ static ::kerneljudge::Kernel kerneljudge_kernel(typeid({tag}).name(), "
            f'"{name}"); ::kerneljudge::enter({", ".join(["kerneljudge_kernel", *arguments])}); }}'
        )
        self._host.replace(item.start, item.start, head.encode())
        self._drop_attributes(item)
        self._host.replace(item.node.start_byte, declarator.start_byte, b"void ")
        self._host.replace(parameters.end_byte, body.end_byte, stand_in.encode())

    def _template_parameter(self, node: Node) -> tuple[str, str]:
        """A template parameter without its default, and its name as an argument."""
        equals = next((child for child in node.children if child.type == "="), None)
        end = equals.start_byte if equals is not None else node.end_byte
        names = [
            found
            for found in nodes(node)
            if found.type in ("identifier", "type_identifier") and found.end_byte <= end
        ]
        # The last name is the parameter's, unless it is the type of an unnamed one.
        last = names[-1] if names else None
        declarator = node.child_by_field_name("declarator")
        is_type = "type_parameter" in node.type or "template_template" in node.type
        if last is None or not (is_type or declarator is not None):
            raise Unfaithful("a kernel with an unnamed template parameter")
        text = self._code[node.start_byte : end].decode()
        pack = "..." if "variadic" in node.type else ""
        return " ".join(text.split()), text_of(last) + pack

    def _parameter(self, node: Node, position: int) -> str:
        """The name of a kernel's parameter in its stand-in, which gives it one if it has none."""
        declarator = node.child_by_field_name("declarator")
        if declarator is not None and "reference" in declarator.type:
            raise Unfaithful("a kernel that takes a reference")
        if declarator is None or declarator.type == "abstract_pointer_declarator":
            name = f"kerneljudge_{position}"
            equals = next((child for child in node.children if child.type == "="), None)
            at = equals.start_byte if equals else node.end_byte
            self._host.replace(at, at, f" {name} ".encode())
            return name
        found = first_identifier(declarator)
        if found is None:
            raise self._unsure(node)
        return text_of(found) + ("..." if "variadic" in node.type else "")

    def _drop_attributes(self, item: _Item) -> None:
        """Leaves what g++ does not know of a kernel's specifiers out of the host half."""
        declarator = function_declarator(item.node)
        assert declarator is not None
        for mask in self._masked:
            if item.start <= mask.start and mask.end <= declarator.start_byte:
                self._host.replace(mask.start, mask.end)
        for child in item.node.children:
            if child.type == "launch_bounds":
                self._host.replace(child.start_byte, child.end_byte)

    # --- everything else

    def _variable(self, item: _Item) -> None:
        node = item.node
        if node.has_error:
            raise self._unsure(node)
        declarators = node.children_by_field_name("declarator")
        end = declarators[0].start_byte if declarators else node.end_byte
        words = self._specifiers(node, item.gap, end)
        if words & {"__device__", "__constant__", "__shared__"}:
            named = [first_identifier(declarator) for declarator in declarators]
            self._device_variables |= {text_of(found) for found in named if found is not None}
            self._keep_on_device(item)
            self._host.replace(*item.stretch)
            return
        self._keep_on_host(item)
        if words & {"const", "constexpr"} and not self._is_of_host(item.stretch):
            self._device_stretches.append(item.stretch)
        else:
            self._device.replace(*item.stretch)

    def _class(self, item: _Item) -> None:
        node = item.node
        if node.has_error:
            raise self._unsure(node)
        if "__global__" in self._names(item.stretch):
            raise Unfaithful("a kernel inside of a class")
        body = node.child_by_field_name("body")
        visible = _without(item.stretch, self._members(body) if body is not None else [])
        if any(map(self._is_of_host, visible)):
            self._device.replace(*item.stretch)
        else:
            self._device_stretches += visible
        self._keep_on_host(item, node.child_by_field_name("name"))

    def _members(self, body: Node) -> list[tuple[int, int]]:
        """Takes the bodies of each side's own methods out of the other half.

        Returns the stretches that the device half loses.
        """
        lost: list[tuple[int, int]] = []
        gap = body.start_byte
        for member in body.children:
            node = member
            if member.type == "template_declaration":
                node = member.named_children[-1]
            code = node.child_by_field_name("body")
            declarator = function_declarator(node)
            if node.type == "function_definition" and code is not None and declarator is not None:
                words = self._specifiers(node, gap, declarator.start_byte)
                initialisers = [c for c in node.children if c.type == "field_initializer_list"]
                start = (initialisers or [code])[0].start_byte
                if "__device__" in words and "__host__" not in words:
                    self._host.replace(start, code.end_byte, b";")
                elif "__device__" not in words and "constexpr" not in words:
                    self._device.replace(start, code.end_byte, b";")
                    lost.append((start, code.end_byte))
            for inner in (node, *node.children):
                if inner.type in _CLASSES and (nested := inner.child_by_field_name("body")):
                    lost += self._members(nested)
            gap = member.end_byte
        return lost

    def _type(self, item: _Item) -> None:
        """A declaration without code: for both halves, as far as its names are theirs."""
        if item.node.has_error:
            raise self._unsure(item.node)
        if self._is_of_host(item.stretch):
            self._device.replace(*item.stretch)
        else:
            self._device_stretches.append(item.stretch)
        name = item.node.child_by_field_name("name")
        self._keep_on_host(item, name or item.node.child_by_field_name("declarator"))

    def _using(self, item: _Item) -> None:
        names = self._names(item.stretch)
        if names & _HOST_NAMESPACES or self._std_names(item.stretch) - STD_ON_DEVICE:
            self._device.replace(*item.stretch)
        if names & (_DEVICE_NAMESPACES | self._device_aliases):
            self._host.replace(*item.stretch)
            if (name := item.node.child_by_field_name("name")) is not None:
                self._device_aliases.add(text_of(name))

    def _macro_call(self, item: _Item) -> None:
        name = next((t.word for t in self._between(item.stretch)), "")
        takes, text = self._macros.get(name, (False, b""))
        if takes and re.search(rb"__(global|device|constant|shared)__", text):
            raise Unfaithful(f"macro {name} defines device code")
        if not takes and not _HOST_MACROS.fullmatch(name):
            raise self._unsure(item.node)
        self._device.replace(*item.stretch)
        self._keep_on_host(item)

    # --- what each half keeps

    def _keep_on_device(self, item: _Item) -> None:
        """Code for the device."""
        if found := self._roots(item.stretch) & _HOST_NAMESPACES:
            raise Unfaithful(f"device code uses {min(found)}::")
        if b"<<<" in self._bare[item.start : item.end]:
            raise Unfaithful("device code launches kernels")
        self._device_stretches.append(item.stretch)

    def _keep_on_host(self, item: _Item, name: Node | None = None) -> None:
        """A declaration for the host, with its launches rewritten; not if it is of CUDA's device
        libraries, whose headers g++ is not given. `name` is the type that it introduces."""
        if self._roots(item.stretch) & (_DEVICE_NAMESPACES | self._device_aliases) and (
            item.node.type != "function_definition"
        ):
            self._host.replace(*item.stretch)
            if name is not None:
                self._device_aliases.add(text_of(name))
            return
        self._host_stretches.append(item.stretch)
        for node in nodes(item.node):
            if node.type != "call_expression":
                continue
            if any(child.type == "kernel_call_syntax" for child in node.children):
                self._launch(node)
            function = node.child_by_field_name("function")
            if function is not None and text_of(function).lstrip(":") == _SET_ATTRIBUTE:
                self._set_attribute(node, function)

    def _launch(self, node: Node) -> None:
        function = node.child_by_field_name("function")
        arguments = node.child_by_field_name("arguments")
        syntax = next(child for child in node.children if child.type == "kernel_call_syntax")
        if function is None or arguments is None or syntax.has_error:
            raise self._unsure(node)
        self._launches.append(node)
        self._host.replace(
            node.start_byte,
            node.end_byte,
            b"(::kerneljudge::Configuration(",
            (syntax.children[0].end_byte, syntax.children[-1].start_byte),
            b"), ",
            (function.start_byte, function.end_byte),
            (arguments.start_byte, arguments.end_byte),
            b")",
        )

    def _set_attribute(self, node: Node, function: Node) -> None:
        """Has cudaFuncSetAttribute find the kernel by its stand-in, under whatever cast."""
        self._host.replace(
            function.start_byte,
            function.end_byte,
            b"::kerneljudge::" + _SET_ATTRIBUTE.encode(),
        )
        arguments = node.child_by_field_name("arguments")
        given = arguments.named_children if arguments is not None else []
        inner = given[0] if given else None
        while inner is not None:
            outer, inner = inner, cast_value(inner)
            if inner is not None:
                self._host.replace(
                    outer.start_byte, outer.end_byte, (inner.start_byte, inner.end_byte)
                )

    def _prune_both_sides(self) -> None:
        """Leaves functions of both sides that no host code uses out of the host half: what they
        call may be the device's alone, which nvcc lets pass where they are not used."""
        used = set().union(*map(self._names, self._host_stretches))
        waiting = self._both_sides
        while found := [
            (name, stretch)
            for name, stretch in waiting
            if name in used or name.startswith("operator")
        ]:
            waiting = [function for function in waiting if function not in found]
            self._host_stretches += [stretch for _, stretch in found]
            used = used.union(*(self._names(stretch) for _, stretch in found))
        for _, stretch in waiting:
            self._host.replace(*stretch)

    def _check_halves(self) -> None:
        used = set().union(*map(self._names, self._host_stretches))
        roots = set().union(*map(self._roots, self._host_stretches))
        if found := roots & {"cub", "thrust"}:
            raise Unfaithful(f"host code calls {min(found)}::")
        if found := used & self._device_variables:
            raise Unfaithful(f"host code uses the device variable {min(found)}")
        if found := {name for name in used if _BY_SYMBOL.fullmatch(name)}:
            raise Unfaithful(f"host code calls {min(found)}")
        if sum(token.text == b"<<<" for token in self._tokens) != len(self._launches):
            raise Unfaithful("a launch <<<...>>> that could not be read")
        for stretch in self._device_stretches:
            if found := self._std_names(stretch) - STD_ON_DEVICE:
                raise Unfaithful(f"device code uses std::{min(found)}")

    def _guess(self) -> list[str] | None:
        if any(kernel.conditional for kernel in self._kernels):
            return None
        names = [kernel.name for kernel in self._kernels if not kernel.is_template]
        templates = {
            kernel.name.rpartition("::")[2]: kernel.name
            for kernel in self._kernels
            if kernel.is_template
        }
        spoken = 0
        for node in self._launches:
            function = node.child_by_field_name("function")
            assert function is not None
            base, _, arguments = text_of(function).partition("<")
            base = base.rpartition("::")[2].strip()
            if base not in templates:
                continue
            words = [word.strip() for word in arguments.rpartition(">")[0].split(",")]
            if not all(word.isdigit() or word in _PLAIN_ARGUMENTS for word in words):
                return None
            spoken += 1
            names.append(f"{templates[base]}<{', '.join(words)}>")
        mentions = sum(
            token.word in templates
            for stretch in self._host_stretches
            for token in self._between(stretch)
            if token.kind == "name"
        )
        # A template that is named beside its launches may have other instances.
        return list(dict.fromkeys(names)) if mentions == spoken else None

    # --- questions about the text

    def _unsure(self, node: Node) -> Unfaithful:
        line = self._code.count(b"\n", 0, node.start_byte) + 1
        text = " ".join(text_of(node).split())
        return Unfaithful(f"line {line} could not be read: {text[:60]}")

    def _check_errors(self, node: Node, body: Node, *, on_device: bool) -> None:
        """Raises for text that the grammar does not know, unless it is inside of a body that is
        kept as it is and whose end is certain."""
        if not node.has_error:
            return
        outside = any(
            (found.type == "ERROR" or found.is_missing)
            and not (body.start_byte <= found.start_byte and found.end_byte <= body.end_byte)
            for found in nodes(node)
        )
        whole = matching_parenthesis(self._bare, body.start_byte) == body.end_byte
        text = self._bare[body.start_byte : body.end_byte]
        rewritten = not on_device and (b"<<<" in text or _SET_ATTRIBUTE.encode() in text)
        if outside or not whole or rewritten:
            raise self._unsure(node)

    def _specifiers(self, node: Node, gap: int, end: int) -> set[str]:
        """The words before a declarator, also those that are in macros."""
        found = self._names((node.start_byte, end))
        return found.union(
            *(mask.words for mask in self._masked if gap <= mask.start and mask.end <= end)
        )

    def _is_of_host(self, stretch: tuple[int, int]) -> bool:
        """Whether a stretch names what device code cannot have."""
        return bool(
            self._roots(stretch) & _HOST_NAMESPACES or self._std_names(stretch) - STD_ON_DEVICE
        )

    def _std_names(self, stretch: tuple[int, int]) -> set[str]:
        words = self._between(stretch)
        return {
            three.word
            for one, two, three in zip(words, words[1:], words[2:], strict=False)
            if one.text == b"std" and two.text == b"::" and three.kind == "name"
        }

    def _roots(self, stretch: tuple[int, int]) -> set[str]:
        """The first parts of qualified names, and the aliases of what is the device's."""
        words = self._between(stretch)
        found = {
            one.word
            for before, one, after in zip([None, *words], words, words[1:], strict=False)
            if one.kind == "name"
            and after.text == b"::"
            and (before is None or before.text != b"::")
        }
        return found | (self._names(stretch) & self._device_aliases)

    def _names(self, stretch: tuple[int, int]) -> set[str]:
        return {token.word for token in self._between(stretch) if token.kind == "name"}

    def _between(self, stretch: tuple[int, int]) -> list[Token]:
        first = bisect_left(self._starts, stretch[0])
        return self._tokens[first : bisect_left(self._starts, stretch[1])]


def _strip_defaults(half: Edits, declarator: Node) -> None:
    parameters = declarator.child_by_field_name("parameters")
    for child in parameters.named_children if parameters is not None else []:
        equals = next((part for part in child.children if part.type == "="), None)
        if child.type == "optional_parameter_declaration" and equals is not None:
            half.replace(equals.start_byte, child.end_byte)


def _binding(statement: Node) -> tuple[str, str] | None:
    """`m.def("name", &function, "doc")` as name and function; None for anything else."""
    call = statement.named_children[0] if statement.named_children else None
    if statement.type != "expression_statement" or call is None or call.type != "call_expression":
        return None
    function = call.child_by_field_name("function")
    arguments = call.child_by_field_name("arguments")
    if function is None or arguments is None or not re.fullmatch(r"\w+\.def", text_of(function)):
        return None
    given = [child for child in arguments.named_children if child.type != "comment"]
    if not 2 <= len(given) <= 3 or any(
        child.type not in ("string_literal", "raw_string_literal", "concatenated_string")
        for child in (given[0], *given[2:])
    ):
        return None
    name = re.fullmatch(r'"([A-Za-z_]\w*)"', text_of(given[0]))
    target = re.fullmatch(r"&?\s*((?:::)?[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)", text_of(given[1]))
    return (name.group(1), target.group(1)) if name and target else None


def _without(stretch: tuple[int, int], holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """A stretch, in pieces, without the holes in it."""
    pieces = []
    at = stretch[0]
    for start, end in sorted(holes):
        pieces.append((at, start))
        at = end
    return [*pieces, (at, stretch[1])]
