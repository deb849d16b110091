"""Which compiler options are accepted, and what they come to."""

from __future__ import annotations

import pytest

from kerneljudge.building.flags import FlagError, cuda_flags, host_flags, link_flags, words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "/tmp/x"],
        ["-ccbin", "/tmp/evil"],
        ["--compiler-bindir=/tmp/evil"],
        ["--output-directory=/tmp"],
        ["-odir", "/tmp"],
        ["-optf", "/tmp/options"],
        ["--options-file=/tmp/options"],
        ["@/tmp/options"],
        ["--run"],
        ["-keep"],
        ["-x", "cu"],
        ["other.cu"],
        ["-Xcompiler", "-fplugin=/tmp/evil.so"],
        ["-Xcompiler", "-wrapper,/tmp/evil"],
        ["-Xptxas", "-o,/tmp/x"],
        ["--made-up"],
    ],
)
def test_an_option_for_nvcc_that_could_write_or_run_files_is_refused_by_name(
    options: list[str],
) -> None:
    with pytest.raises(FlagError) as error:
        cuda_flags(options)
    assert error.value.option in " ".join(options).replace(" ", "=")


@pytest.mark.parametrize(
    "option",
    [
        "-DX=$(touch /tmp/x)",
        "-DX=`touch /tmp/x`",
        '-DX="; touch /tmp/x"',
        "-maxrregcount=1;ls",
        "-Xptxas='; touch /tmp/x; '",
        "-I/tmp/$(id)",
        "-DX=\\",
    ],
)
def test_what_a_shell_would_read_is_refused(option: str) -> None:
    with pytest.raises(FlagError):
        cuda_flags([option])


@pytest.mark.parametrize(
    "option",
    [
        "-o",
        "-wrapper",
        "-fplugin=evil.so",
        "-fplugin-arg-x-y",
        "-B/tmp",
        "-specs=/tmp/specs",
        "-fmodule-mapper=|evil",
        "-fdump-tree-all",
        "-fprofile-generate",
        "-fuse-ld=/tmp/ld",
        "-save-temps",
        "-Wl,-o,/tmp/x",
        "-Wp,-MD,/tmp/x",
        "-Wa,-o,/tmp/x",
        "@file",
        "-x",
        "-MF",
        "main.cpp",
    ],
)
def test_an_option_for_gxx_that_could_write_or_run_files_is_refused_by_name(option: str) -> None:
    with pytest.raises(FlagError) as error:
        host_flags([option, "value"])
    assert repr(option) in str(error.value)


@pytest.mark.parametrize("option", ["-Wl,-o,x", "-Wl,-plugin,x", "-T", "-fuse-ld=x", "-Wl,-Map=x"])
def test_an_option_for_the_linker_that_could_write_or_run_files_is_refused(option: str) -> None:
    with pytest.raises(FlagError):
        link_flags([option])


def test_libraries_and_their_folders_may_be_linked() -> None:
    options = ["-lcublas", "-L/opt/lib", "-Wl,-rpath,/opt/lib", "/opt/lib/libx.so.2"]
    assert link_flags(options) == options


def test_options_are_split_as_the_shell_of_a_build_file_would() -> None:
    assert words(["-O3 -g", "", "-DX='a b'"]) == ["-O3", "-g", "-DX=a b"]
    with pytest.raises(FlagError):
        words(["-DX='a"])


def test_nvcc_options_keep_their_meaning_for_nvrtc() -> None:
    flags = cuda_flags(
        [
            *("-O3", "--use_fast_math", "-lineinfo", "--expt-relaxed-constexpr"),
            *("-Xptxas", "-v,-O2", "-maxrregcount=64", "-DTILE=16", "-I", "/opt/include"),
            *("-std=c++17", "-Xcompiler", "-O3", "--threads", "4", "-fmad=false"),
        ]
    )
    assert flags.only_nvcc is None
    assert flags.nvrtc == [
        *("-use_fast_math", "-lineinfo", "--ptxas-options=-v", "--ptxas-options=-O2"),
        *("-maxrregcount=64", "-DTILE=16", "-I/opt/include", "-std=c++17", "-fmad=false"),
    ]
    assert flags.host.arguments == ["-DTILE=16", "-I/opt/include"]
    assert flags.host.standard == "c++17"
    assert flags.host.ordinary


@pytest.mark.parametrize("option", ["-rdc=true", "-dc", "--default-stream=per-thread"])
def test_what_only_nvcc_can_do_is_named(option: str) -> None:
    assert cuda_flags([option]).only_nvcc == option.replace("--", "-")


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ([], "sm_90"),
        (["-arch=sm_90a"], "sm_90a"),
        (["-arch=native"], "sm_90"),
        (
            ["-gencode=arch=compute_80,code=sm_80", "-gencode", "arch=compute_90,code=sm_90"],
            "sm_90",
        ),
        (["-gencode=arch=compute_90a,code=[sm_90a,compute_90a]"], "sm_90a"),
        (["-arch=sm_80"], None),
        (["-gencode=arch=compute_90,code=compute_90"], None),
    ],
)
def test_the_most_specific_architecture_that_the_device_runs_is_taken(
    options: list[str], target: str | None
) -> None:
    assert cuda_flags(options).target("sm_90") == target


def test_options_that_change_code_generation_rule_out_the_precompiled_header() -> None:
    assert host_flags(["-O3", "-Wall", "-DX=1", "-I/opt", "-g"]).ordinary
    assert not host_flags(["-march=native"]).ordinary
    assert not host_flags(["-ffast-math"]).ordinary
