"""`kerneljudge compare`: a candidate against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kerneljudge.cli import options
from kerneljudge.cli.connections import connect
from kerneljudge.cli.console import exit_on_error
from kerneljudge.cli.kernels import KernelOptions, read_comparison, read_metadata, run_options
from kerneljudge.cli.results import check_writable, exit_code, report
from kerneljudge.cli.runs import judge_one

__all__ = ["compare"]


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
    ref_type: options.RefType = None,
    ref_contract: options.RefContract = None,
    ref_metadata: options.RefMetadata = None,
    trials: options.Trials = 100,
    warmup: options.Warmup = 10,
    checks: options.Checks = 2,
    timeout: options.Timeout = 120,
    seed: options.Seed = None,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    priority: options.Priority = None,
    deadline: options.Deadline = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Check a candidate against a reference, and time both.

    The options of a kernel are the candidate's; those that begin with --ref are the reference's.

    Exit code: 0 accepted, 1 judged and not accepted, 2 a mistake in the command or the request,
    3 no verdict.
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
        ref_chosen = KernelOptions(ref_type, ref_contract, read_metadata(ref_metadata, {}))
        request = read_comparison(reference, ref_chosen, candidate, chosen) | run_options(
            trials, warmup, checks, timeout, seed, atol, rtol
        )
        check_writable(output)
        with connect(url, api_key) as client:
            result = judge_one(client, request, priority, deadline)
            report(result, as_json, output)
            raise typer.Exit(exit_code([result]))
