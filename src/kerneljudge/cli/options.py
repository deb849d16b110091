"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kerneljudge.schema import KernelType

__all__ = [
    "ApiKey",
    "AsJson",
    "Atol",
    "Checks",
    "ClassName",
    "CompilerOption",
    "Contract",
    "Deadline",
    "EntryPoint",
    "FunctionName",
    "JobId",
    "KernelName",
    "Metadata",
    "MethodName",
    "Output",
    "Parallel",
    "Priority",
    "RefContract",
    "RefMetadata",
    "RefType",
    "Rtol",
    "RunningUrl",
    "Seed",
    "Timeout",
    "Trials",
    "Type",
    "Url",
    "Warmup",
]

_KERNEL = "Kernel"
_REFERENCE = "Reference"
_RUN = "Run"
_WHERE = "Server and output"

Type = Annotated[
    KernelType | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="Kernel type: torch, torch_cuda, triton, cuda or multi_kernel; told from the source "
        "if unset.",
        rich_help_panel=_KERNEL,
    ),
]
Contract = Annotated[
    Path | None,
    typer.Option("--contract", help="JSON file with its contract.", rich_help_panel=_KERNEL),
]
Metadata = Annotated[
    str | None,
    typer.Option("--metadata", help="JSON, or @ and a JSON file.", rich_help_panel=_KERNEL),
]
KernelName = Annotated[
    str | None,
    typer.Option("--kernel-name", help="triton, cuda: what to launch.", rich_help_panel=_KERNEL),
]
EntryPoint = Annotated[
    str | None,
    typer.Option("--entry-point", help="multi_kernel: what to call.", rich_help_panel=_KERNEL),
]
FunctionName = Annotated[
    str | None,
    typer.Option(
        "--function", help="torch, torch_cuda: the function to call.", rich_help_panel=_KERNEL
    ),
]
ClassName = Annotated[
    str | None,
    typer.Option("--class", help="torch, torch_cuda: the class.", rich_help_panel=_KERNEL),
]
MethodName = Annotated[
    str | None,
    typer.Option("--method", help="torch, torch_cuda: its method.", rich_help_panel=_KERNEL),
]
CompilerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--compiler-option", help="cuda: an option of the compiler.", rich_help_panel=_KERNEL
    ),
]

RefType = Annotated[
    KernelType | None,
    typer.Option(
        "--ref-type",
        metavar="TYPE",
        help="Its kernel type; told from the source if unset.",
        rich_help_panel=_REFERENCE,
    ),
]
RefContract = Annotated[
    Path | None,
    typer.Option(
        "--ref-contract",
        help="Its contract; --contract if unset, where the source makes no inputs itself.",
        rich_help_panel=_REFERENCE,
    ),
]
RefMetadata = Annotated[
    str | None,
    typer.Option(
        "--ref-metadata",
        help="Its metadata: JSON, or @ and a JSON file.",
        rich_help_panel=_REFERENCE,
    ),
]

Trials = Annotated[
    int, typer.Option("--trials", min=1, max=10_000, help="Timed runs.", rich_help_panel=_RUN)
]
Warmup = Annotated[
    int, typer.Option("--warmup", min=0, max=1000, help="Untimed runs.", rich_help_panel=_RUN)
]
Checks = Annotated[
    int,
    typer.Option("--checks", min=1, max=100, help="Correctness trials.", rich_help_panel=_RUN),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", min=5, max=600, help="Seconds for the job.", rich_help_panel=_RUN),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Seed of all values; drawn if unset.", rich_help_panel=_RUN),
]
Atol = Annotated[
    float | None,
    typer.Option("--atol", min=0, max=1, help="Absolute tolerance.", rich_help_panel=_RUN),
]
Rtol = Annotated[
    float | None,
    typer.Option("--rtol", min=0, max=1, help="Relative tolerance.", rich_help_panel=_RUN),
]

Priority = Annotated[
    int | None,
    typer.Option(
        "--priority",
        min=-10,
        max=10,
        help="Jobs of higher priority go first; 0 if unset.",
        rich_help_panel=_WHERE,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.001,
        help="Seconds from submission after which the result is of no use.",
        rich_help_panel=_WHERE,
    ),
]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        "--server",
        envvar="KERNELJUDGE_URL",
        help="URL of a running server; a private one is started if unset.",
        rich_help_panel=_WHERE,
    ),
]
RunningUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        "--server",
        envvar="KERNELJUDGE_URL",
        help="URL of the server; http://localhost:8000 if unset.",
        rich_help_panel=_WHERE,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="KERNELJUDGE_API_KEY",
        help="API key, where the server has any; other users may see a command line.",
        rich_help_panel=_WHERE,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, and nothing else.", rich_help_panel=_WHERE),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Write the response to a file.", rich_help_panel=_WHERE),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        min=1,
        max=64,
        help="Jobs at a time; all at once if unset.",
        rich_help_panel=_WHERE,
    ),
]
