"""`kerneljudge compare`: a candidate against a reference."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from kerneljudge.cli import options
from kerneljudge.cli.console import exit_on_error
from kerneljudge.cli.kernels import (
    KernelOptions,
    makes_inputs,
    read_kernel,
    read_metadata,
    read_source,
)
from kerneljudge.cli.private import client_of
from kerneljudge.cli.results import check_writable, exit_code, judge_one, report
from kerneljudge.schema import KernelType

__all__ = ["compare"]

_REFERENCE = "Reference"


def compare(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Source of the reference.")
    ],
    candidate: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="Source of the candidate.")
    ],
    kernel_type: options.Type = None,
    contract: options.Contract = None,
    metadata: options.Metadata = None,
    kernel_name: options.KernelName = None,
    entry_point: options.EntryPoint = None,
    function_name: options.FunctionName = None,
    class_name: options.ClassName = None,
    method_name: options.MethodName = None,
    compiler_options: options.CompilerOption = None,
    ref_type: Annotated[
        KernelType | None,
        typer.Option(
            metavar="TYPE",
            help="Its kernel type; told from the source if unset.",
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    ref_contract: Annotated[
        Path | None,
        typer.Option(
            help="Its contract; --contract if unset, where the source makes no inputs itself.",
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    ref_metadata: Annotated[
        str | None,
        typer.Option(help="Its metadata: JSON, or @ and a JSON file.", rich_help_panel=_REFERENCE),
    ] = None,
    trials: options.Trials = 100,
    warmup: options.Warmup = 10,
    checks: options.Checks = 2,
    timeout: options.Timeout = 120,
    seed: options.Seed = None,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    server: options.Server = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Check a candidate against a reference, and time both.

    The options of a kernel are the candidate's; those that begin with --ref are the reference's.

    Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command or the request,
    3 a failure of the server.
    """
    with exit_on_error(as_json):
        shortcuts = {
            "kernel_name": kernel_name,
            "entry_point": entry_point,
            "function_name": function_name,
            "class_name": class_name,
            "method_name": method_name,
            "compiler_options": compiler_options,
        }
        chosen = KernelOptions(kernel_type, contract, read_metadata(metadata, shortcuts))
        if ref_contract is None and not makes_inputs(read_source(reference)):
            ref_contract = contract
        ref_chosen = KernelOptions(ref_type, ref_contract, read_metadata(ref_metadata, {}))
        ref_kernel = read_kernel(reference, ref_chosen)
        custom_kernel = read_kernel(candidate, chosen)
        check_writable(output)
        with client_of(server, timeout) as client:
            call = functools.partial(
                client.compare,
                ref_kernel,
                custom_kernel,
                num_trials=trials,
                num_warmup=warmup,
                num_checks=checks,
                seed=seed,
                atol=atol,
                rtol=rtol,
            )
            result = judge_one(client, (candidate.name, call))
            report(result, as_json, output)
            raise typer.Exit(exit_code([result.verdict]))
