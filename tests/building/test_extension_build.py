"""Torch extensions, built by both ways and loaded into this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda_wrappers import NAMES, Wrapper, wrapper

from kerneljudge.building import BuildResult, Toolchain

pytestmark = [pytest.mark.integration, pytest.mark.cuda]

BuildExtension = Callable[..., BuildResult]
FAST = [name for name in NAMES if wrapper(name).reason is None]
# One for each part of the machinery; all of them are tried in the slow test.
TYPICAL = ["plain", "dispatch_macro", "launch_in_wrapper", "wrapper_with_code"]


@pytest.fixture(autouse=True)
def _can_build(toolchain: Toolchain) -> None:
    if missing := toolchain.missing_for_fast():
        pytest.skip(f"this machine lacks {', '.join(missing)}")


def _build_fast(build_extension: BuildExtension, toolchain: Toolchain, given: Wrapper) -> None:
    if given.needs == "torch_cuda" and not toolchain.has_torch_cuda:
        pytest.skip(toolchain.without_torch_cuda)
    result = build_extension(given.request(preference="fast"))
    assert result.ok, result.log
    assert result.way == "fast"
    assert result.manifest["kernels"]
    assert set(given.functions or ["forward"]) == result.manifest["functions"].keys()


@pytest.mark.parametrize("name", TYPICAL)
def test_a_typical_wrapper_is_built_the_fast_way(
    build_extension: BuildExtension, toolchain: Toolchain, name: str
) -> None:
    _build_fast(build_extension, toolchain, wrapper(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAST if name not in TYPICAL])
def test_every_wrapper_that_can_be_is_built_the_fast_way(
    build_extension: BuildExtension, toolchain: Toolchain, name: str
) -> None:
    _build_fast(build_extension, toolchain, wrapper(name))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(FAST)))
def test_a_wrapper_for_nvcc_is_told_why(build_extension: BuildExtension, name: str) -> None:
    given = wrapper(name)
    result = build_extension(given.request(preference="fast"))
    assert not result.ok
    assert result.fault == "compile_error"
    if given.reason is not None and not given.reason.startswith("the fast way"):
        assert given.reason in result.log


@pytest.mark.slow
def test_what_the_fast_way_cannot_do_is_built_as_torch_builds_it_and_says_why(
    build_extension: BuildExtension, toolchain: Toolchain
) -> None:
    if missing := toolchain.missing_for_extension():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    result = build_extension(wrapper("launch_in_macro").request())
    assert result.ok, result.log
    assert result.way == "nvcc"
    assert result.reason == "macro LAUNCH launches kernels"
    assert b"PyInit_launch_in_macro" in result.artefacts["module"].read_bytes()


def test_without_nvcc_what_needs_it_is_unavailable_and_not_the_sources_fault(
    build_extension: BuildExtension, toolchain: Toolchain
) -> None:
    without = dataclasses.replace(toolchain, nvcc=None)
    result = build_extension(wrapper("launch_in_macro").request(), toolchain=without)
    assert not result.ok
    assert result.fault == "unavailable"
    assert "nvcc" in result.log
    assert "macro LAUNCH launches kernels" in result.log


def test_without_nvcc_the_messages_of_the_fast_way_are_the_error(
    build_extension: BuildExtension, toolchain: Toolchain
) -> None:
    without = dataclasses.replace(toolchain, nvcc=None)
    source = wrapper("plain").cuda.replace("x[i]", "undefined[i]")
    result = build_extension(wrapper("plain").request(cuda_sources=[source]), toolchain=without)
    line = 1 + source[: source.index("undefined[i]")].count("\n")
    assert not result.ok
    assert result.fault == "compile_error"
    assert f'cuda_sources({line}): error: identifier "undefined"' in result.log
    assert result.reason is not None
    assert "nvcc" in result.reason


def test_a_syntax_error_is_answered_without_asking_nvcc(build_extension: BuildExtension) -> None:
    source = wrapper("plain").cuda.replace("+ 1.0f;", "+ 1.0f")
    result = build_extension(wrapper("plain").request(cuda_sources=[source]))
    assert not result.ok
    assert result.way == "fast"
    assert 'error: expected a ";"' in result.log


def test_errors_of_the_wrapper_have_its_lines(build_extension: BuildExtension) -> None:
    result = build_extension(
        cpp_sources=["int f(int a) {\n  return a +;\n}", "int g() { return 1; }"],
        functions={"f": "f"},
    )
    assert not result.ok
    assert "cpp_sources[0]:2:13: error: expected" in result.log


def test_a_function_that_is_defined_nowhere_is_named_with_those_that_are(
    build_extension: BuildExtension,
) -> None:
    result = build_extension(wrapper("plain").request(functions={"forwards": "forwards"}))
    assert not result.ok
    assert result.log.startswith("functions: forwards is defined nowhere")
    assert result.hint == "The sources define forward."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra_cflags": ["-fplugin=/tmp/x.so"]}, "option '-fplugin=/tmp/x.so'"),
        ({"extra_cuda_cflags": ["-ccbin /tmp/x"]}, "option '-ccbin'"),
        ({"extra_cuda_cflags": ["-DX=$(id)"]}, "option '-DX=$(id)'"),
        ({"extra_ldflags": ["-Wl,-o,/tmp/x"]}, "option '-Wl,-o,/tmp/x'"),
        ({"name": "my-extension"}, "'my-extension' is no C++ identifier"),
        ({"functions": {"f); system(": ""}}, "is no name of a C++ function"),
        ({"headers": {"../x.h": ""}}, "'../x.h' is no relative path"),
        ({"headers": {"/etc/x.h": ""}}, "'/etc/x.h' is no relative path"),
    ],
)
def test_what_is_not_acceptable_in_a_request_is_named(
    build_extension: BuildExtension, fields: dict[str, Any], message: str
) -> None:
    result = build_extension(wrapper("plain").request(**fields))
    assert not result.ok
    assert result.fault == "compile_error"
    assert message in result.log


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "sm_90; touch /tmp/x"},
        {"cuda_sources": ["a\0b"]},
        {"cpp_sources": ["\ud800"]},
        {"extra_cflags": ["-DX=\0"]},
    ],
)
def test_what_no_compiler_could_read_is_no_request(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        wrapper("plain").request(**fields)


def test_a_source_that_needs_torchs_cuda_headers_is_unavailable_where_torch_has_none(
    build_extension: BuildExtension, toolchain: Toolchain
) -> None:
    if toolchain.has_torch_cuda:
        pytest.skip("torch has its CUDA headers here")
    result = build_extension(wrapper("streams_and_guards").request())
    assert not result.ok
    assert result.fault == "unavailable"
    assert "ATen/cuda/CUDAContext.h" in result.log
    assert toolchain.without_torch_cuda in result.log


def test_options_headers_and_definitions_reach_both_compilers(
    build_extension: BuildExtension, tmp_path: Path
) -> None:
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "theirs.h").write_text("#define THEIRS 1\n")
    head = "#include <own/own.h>\n#include <theirs.h>\n"
    check = "#if !(OWN && THEIRS && DEFINED == 7)\n#error no\n#endif\n"
    result = build_extension(
        wrapper("wrapper_with_code").request(
            preference="fast",
            cuda_sources=[head + check + wrapper("wrapper_with_code").cuda],
            cpp_sources=[head + check + wrapper("wrapper_with_code").cpp],
            headers={"own/own.h": "#define OWN 1\n"},
            extra_include_paths=[str(folder)],
            extra_cflags=["-O3 -DDEFINED=7"],
            extra_cuda_cflags=["-DDEFINED=7", "--use_fast_math"],
            extra_ldflags=["-lm"],
        )
    )
    assert result.ok, result.log
    assert result.manifest["depends_on_other_files"]


def test_a_library_that_is_missing_is_named(
    build_extension: BuildExtension, toolchain: Toolchain
) -> None:
    without = dataclasses.replace(toolchain, nvcc=None)
    result = build_extension(
        wrapper("plain").request(extra_ldflags=["-lmade_up"]), toolchain=without
    )
    assert not result.ok
    assert "made_up" in result.log


def test_files_that_load_takes_are_translation_units_with_their_headers(
    build_extension: BuildExtension,
) -> None:
    given = wrapper("wrapper_with_code")
    module = '#include "k.h"\nPYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("f", &forward); }'
    result = build_extension(
        given.request(
            preference="fast",
            cpp_sources=["#include <torch/extension.h>\n" + given.cpp + "\n" + module],
            headers={"k.h": "#pragma once\n"},
            functions=None,
            separate=True,
            implicit_headers=False,
        )
    )
    assert result.ok, result.log
    assert result.manifest["functions"].keys() == {"f"}


def test_the_library_needs_no_driver_to_be_linked(build_extension: BuildExtension) -> None:
    result = build_extension(wrapper("plain").request(preference="fast"))
    assert result.ok, result.log
    content = result.artefacts["library"].read_bytes()
    # Opened by name when the first kernel is launched: the string, and no entry of the linker's.
    assert content.count(b"libcuda.so.1\0") == 1
