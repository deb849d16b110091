"""What NVRTC is given beside the source: the prelude, and stand-ins for the host's headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kerneljudge.building.host_header import NATIVE
from kerneljudge.building.nvrtc import Compiled, compile_cubin

__all__ = ["STD_ON_DEVICE", "compile_device_source"]

_PRELUDE = "kerneljudge/device.h"
_OTHER_INT64 = re.compile(r'invalid redeclaration of type name "u?int(64|ptr)_t"')

_C_HEADERS = (
    *("assert", "ctype", "errno", "fenv", "float", "inttypes", "limits", "locale", "math"),
    *("setjmp", "signal", "stdarg", "stddef", "stdint", "stdio", "stdlib", "string", "time"),
)
_CPP_HEADERS = (
    *("algorithm", "any", "array", "atomic", "bit", "bitset", "chrono", "complex", "concepts"),
    *("condition_variable", "deque", "exception", "execution", "filesystem", "forward_list"),
    *("fstream", "functional", "future", "initializer_list", "iomanip", "ios", "iosfwd"),
    *("iostream", "istream", "iterator", "limits", "list", "locale", "map", "memory", "mutex"),
    *("new", "numbers", "numeric", "optional", "ostream", "queue", "random", "ranges", "ratio"),
    *("regex", "set", "shared_mutex", "span", "sstream", "stack", "stdexcept", "streambuf"),
    *("string", "string_view", "system_error", "thread", "tuple", "type_traits", "typeindex"),
    *("typeinfo", "unordered_map", "unordered_set", "utility", "valarray", "variant", "vector"),
    *("sys/types.h", "unistd.h", "omp.h", "cuda_profiler_api.h", "nvToolsExt.h"),
)
# CUB refuses the header of everything under NVRTC; these are what a kernel can use of it.
_CUB = "".join(
    f"#include <cub/{header}.cuh>\n"
    for header in (
        *("block/block_adjacent_difference", "block/block_discontinuity", "block/block_exchange"),
        *("block/block_histogram", "block/block_load", "block/block_merge_sort"),
        *("block/block_radix_sort", "block/block_reduce", "block/block_scan"),
        *("block/block_shuffle", "block/block_store", "warp/warp_exchange", "warp/warp_load"),
        *("warp/warp_merge_sort", "warp/warp_reduce", "warp/warp_scan", "warp/warp_store"),
    )
)
_TORCH_HEADERS = (
    *("torch/extension.h", "torch/all.h", "torch/torch.h", "torch/types.h", "torch/library.h"),
    *("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "ATen/cuda/Exceptions.h", "ATen/Dispatch.h"),
    *("c10/cuda/CUDAGuard.h", "c10/cuda/CUDAException.h", "c10/cuda/CUDAStream.h"),
    *("c10/util/Optional.h", "pybind11/pybind11.h", "cuda_runtime_api.h", "Python.h"),
)


def _words(text: str) -> list[str]:
    return text.split()


_LIGHT = frozenset(
    _words(
        "abs acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 "
        "expm1 fabs fdim floor fma fmax fmin fmod frexp hypot ilogb isfinite isinf isnan ldexp "
        "lgamma llrint llround log log10 log1p log2 logb lrint lround modf nearbyint nextafter "
        "pow remainder rint round scalbn signbit sin sinh sqrt tan tanh tgamma trunc memcpy memset "
        "printf max min clamp swap move forward int8_t int16_t int32_t int64_t uint8_t uint16_t "
        "uint32_t uint64_t intptr_t uintptr_t size_t ptrdiff_t nullptr_t initializer_list"
    )
)
"""Members of `std` that the prelude and NVRTC itself have."""

_FULL = {
    "limits": ["numeric_limits"],
    "type_traits": _words(
        "is_same is_same_v enable_if enable_if_t conditional conditional_t integral_constant "
        "bool_constant true_type false_type is_integral is_integral_v is_floating_point "
        "is_floating_point_v is_arithmetic is_arithmetic_v is_signed is_signed_v is_unsigned "
        "is_unsigned_v is_pointer is_pointer_v is_const is_const_v is_void is_void_v remove_cv "
        "remove_cv_t remove_const remove_const_t remove_reference remove_reference_t "
        "remove_pointer remove_pointer_t remove_cvref remove_cvref_t decay decay_t add_const "
        "add_pointer make_signed make_signed_t make_unsigned make_unsigned_t common_type "
        "common_type_t underlying_type underlying_type_t is_convertible is_convertible_v "
        "is_base_of is_base_of_v is_trivially_copyable is_trivially_copyable_v aligned_storage "
        "aligned_storage_t alignment_of void_t conjunction conjunction_v disjunction "
        "disjunction_v negation negation_v invoke_result invoke_result_t is_invocable "
        "is_invocable_v type_identity type_identity_t is_enum is_enum_v is_class is_class_v "
        "extent extent_v rank rank_v"
    ),
    "utility": _words(
        "pair make_pair index_sequence make_index_sequence index_sequence_for integer_sequence "
        "make_integer_sequence exchange declval as_const in_place"
    ),
    "tuple": _words(
        "tuple make_tuple get tie apply tuple_size tuple_size_v tuple_element forward_as_tuple"
    ),
    "array": ["array"],
    "complex": ["complex"],
    "bit": _words("bit_cast popcount countl_zero countr_zero has_single_bit bit_ceil bit_floor"),
    "functional": _words("plus minus multiplies divides less greater equal_to invoke identity"),
    "algorithm": _words("fill fill_n copy minmax lower_bound upper_bound binary_search"),
    "numeric": _words("accumulate reduce gcd lcm midpoint iota"),
    "cstddef": ["byte"],
    "optional": ["optional", "nullopt"],
    "span": ["span"],
    "concepts": _words("same_as integral floating_point convertible_to signed_integral"),
    "iterator": _words("begin end size data distance advance next prev"),
}
"""Header of libcu++ → members of `std` that it has under `cuda::std`."""

_HEADER_OF = {name: header for header, names in _FULL.items() for name in names}

STD_ON_DEVICE = _LIGHT | _HEADER_OF.keys()
"""The members of `std` that device code can use here."""

_WIDE = ("cuda/", "cub/", "thrust/", "cooperative_groups", "cuda_pipeline", "cuda_awbarrier", "nv/")


@dataclass(frozen=True)
class _Program:
    """A source with its prelude."""

    source: str
    """What to compile."""
    headers: dict[str, str]
    """What to give with it."""
    options: list[str]
    """Options that go with the prelude."""
    wide_int64: bool
    """Whether `int64_t` is `long long` in it, as NVIDIA's headers define it under NVRTC, and not
    `long`, as on the host."""


def compile_device_source(
    source: str,
    names: Sequence[str],
    options: Sequence[str],
    *,
    includes: Iterable[str],
    std: Iterable[str],
    as_nvcc: bool,
) -> tuple[Compiled, bool]:
    """Compiles `source` by NVRTC, behind the prelude; `options` come after the prelude's own.

    Headers disagree on whether int64_t is long or long long: where one refuses the first, it is
    the second, which the answer says beside what came of it. Of the rest see `_program` and
    `compile_cubin`.
    """
    program = _program(source, includes=includes, std=std, as_nvcc=as_nvcc, wide_int64=False)
    while True:
        compiled = compile_cubin(
            program.source, [*program.options, *options], names, program.headers
        )
        if compiled.cubin is not None or program.wide_int64:
            return compiled, program.wide_int64
        if _OTHER_INT64.search(compiled.log) is None:
            return compiled, False
        program = _program(source, includes=includes, std=std, as_nvcc=as_nvcc, wide_int64=True)


def _program(
    source: str,
    *,
    includes: Iterable[str],
    std: Iterable[str],
    as_nvcc: bool,
    wide_int64: bool,
) -> _Program:
    """`source` for NVRTC.

    `includes` are the headers that it includes and `std` the members of `std` that it names. With
    `as_nvcc` mathematical functions are overloaded as in a source for nvcc.
    """
    needed = sorted({_HEADER_OF[name] for name in std if name in _HEADER_OF})
    wide = wide_int64 or bool(needed) or any(name.startswith(_WIDE) for name in includes)
    head = [f'#include "{_PRELUDE}"']
    head += [f"#include <cuda/std/{name}>" for name in needed]
    if needed:
        head.append("namespace std { using namespace ::cuda::std; }")
    headers = {f"{name}.h": "" for name in _C_HEADERS}
    headers |= {f"c{name}": "" for name in _C_HEADERS}
    headers |= dict.fromkeys((*_CPP_HEADERS, *_TORCH_HEADERS), "")
    headers["cub/cub.cuh"] = _CUB
    headers[_PRELUDE] = (NATIVE / "device.h").read_text()
    options = [
        # Unannotated constexpr functions are for both sides, as --expt-relaxed-constexpr has it.
        "-default-device",
        "-device-int128",
        f"-DKERNELJUDGE_INT64={'long long' if wide else 'long'}",
        # Macros that a source or CUDA's headers define again, as the host's headers have them.
        "-diag-suppress=47",
    ]
    if as_nvcc:
        options.append("-DKERNELJUDGE_AS_NVCC")
    return _Program("\n".join([*head, source]), headers, options, wide)
