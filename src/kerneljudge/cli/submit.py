"""`kerneljudge submit`: a job that nobody waits for yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kerneljudge.cli import options
from kerneljudge.cli.console import OUT, Usage, exit_on_error, plain, print_json
from kerneljudge.cli.kernels import (
    KernelOptions,
    read_comparison,
    read_kernel,
    read_metadata,
    run_options,
)
from kerneljudge.client import KernelJudgeClient

__all__ = ["submit"]


def submit(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Source of the kernel.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Source of a reference to compare it with.", rich_help_panel="Reference"),
    ] = None,
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
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="Submitting again with the same key gives the same job.",
            rich_help_panel="Server and output",
        ),
    ] = None,
    url: options.RunningUrl = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """Submit one kernel, or with --reference a comparison, and print the job's id at once.

    `kerneljudge wait` waits for its result, `kerneljudge watch` shows its phases.
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
        runs = run_options(trials, warmup, checks, timeout, seed)
        if reference is None:
            alone = (ref_type, ref_contract, ref_metadata, atol, rtol)
            if any(option is not None for option in alone):
                raise Usage("--ref-…, --atol and --rtol are for a comparison: give --reference")
            request = {"kernel": read_kernel(source, chosen), **runs}
        else:
            ref_chosen = KernelOptions(ref_type, ref_contract, read_metadata(ref_metadata, {}))
            runs = run_options(trials, warmup, checks, timeout, seed, atol, rtol)
            request = read_comparison(reference, ref_chosen, source, chosen) | runs
        with KernelJudgeClient(url, api_key=api_key) as client:
            job = client.submit(
                request, priority=priority, deadline=deadline, idempotency_key=idempotency_key
            )
        if as_json:
            print_json(job.model_dump(mode="json"))
        else:
            OUT.print(plain(job.job_id), markup=False)
