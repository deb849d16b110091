"""`kerneljudge demo`: one kernel of every type through a real server."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kerneljudge.api import CompareResponse
from kerneljudge.cli import options
from kerneljudge.cli.connections import connect
from kerneljudge.cli.console import ERR, OUT, Usage, exit_on_error, verdict_text
from kerneljudge.cli.display import milliseconds, show_result
from kerneljudge.cli.exits import Exit
from kerneljudge.cli.results import response_json
from kerneljudge.cli.runs import judge_all
from kerneljudge.client import Judged, KernelJudgeClient, KernelJudgeError, Outcome
from kerneljudge.contract import IOContract, IOContractBuilder, create_randn_spec
from kerneljudge.schema import CompareRequest, KernelCode, KernelType, Verdict

__all__ = ["demo"]

_SHAPE = [256, 512]
_SIZE = _SHAPE[0] * _SHAPE[1]
_BLOCK = 4096
_THREADS = 256
_TIMEOUT = 300.0
# What compiles on a machine without a GPU and cannot run there.
_NEEDS_GPU = frozenset({KernelType.TORCH_CUDA, KernelType.CUDA})


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results as JSON.")] = Path("out"),
    url: options.Url = None,
    api_key: options.ApiKey = None,
) -> None:
    """Judge one kernel of every type: a + b, against PyTorch.

    Starts a server on a free port of this machine, or uses the one of --url.

    Exit code: 0 if every verdict is what this device can give: accepted, or unsupported for CUDA
    on a machine without a GPU; 1 if another one came, 2 for a mistake in the command, 3 for a
    failure of the server.
    """
    with exit_on_error():
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Usage(f"cannot make the folder {output}: {error.strerror}") from None
        kernels = demo_kernels()
        ERR.print("Starting a server…" if url is None else f"Asking {url}…", markup=False)
        with connect(url, api_key) as client:
            gpu = client.health_check().gpu_available
            answers = _judge(client, kernels, trials=100 if gpu else 20)
        results = [answer for answer in answers if isinstance(answer, CompareResponse)]
        _write(output / "demo.json", results)
        OUT.print(_table(results))
        _explain(results, gpu)
        for failure in answers:
            if isinstance(failure, KernelJudgeError):
                raise failure
        if any(not _expected(result, gpu) for result in results):
            raise typer.Exit(Exit.NOT_ACCEPTED)


def demo_kernels() -> dict[KernelType, KernelCode]:
    """The candidate of each type."""
    made = {
        KernelType.TORCH: ("add_torch.py", None, None),
        KernelType.TORCH_CUDA: ("add_torch_cuda.py", None, None),
        KernelType.TRITON: ("add_triton.py", _triton_contract(), None),
        KernelType.CUDA: ("add_cuda.cu", _cuda_contract(), None),
        KernelType.MULTI_KERNEL: ("add_multi_kernel.py", _inputs().build(), {"entry_point": "run"}),
    }
    return {
        kernel_type: KernelCode(
            source_code=_source(name), kernel_type=kernel_type, io=contract, metadata=metadata
        )
        for kernel_type, (name, contract, metadata) in made.items()
    }


def _source(name: str) -> str:
    return (files("kerneljudge.cli") / "demo_kernels" / name).read_text(encoding="utf-8")


def _inputs() -> IOContractBuilder:
    return (
        IOContractBuilder()
        .add_input_tensor("a", create_randn_spec(_SHAPE, seed=42))
        .add_input_tensor("b", create_randn_spec(_SHAPE, seed=43))
    )


def _triton_contract() -> IOContract:
    return (
        _inputs()
        .add_output_tensor("out", shape=_SHAPE)
        .add_scalar("n", "int", _SIZE)
        .add_meta_param("block_size", _BLOCK)
        .set_grid(_SIZE // _BLOCK)
        .set_num_warps(8)
        .build()
    )


def _cuda_contract() -> IOContract:
    return (
        _inputs()
        .add_output_tensor("out", shape=_SHAPE)
        .add_scalar("n", "int", _SIZE)
        .set_grid(_SIZE // _THREADS)
        .set_block(_THREADS)
        .build()
    )


def _judge(
    client: KernelJudgeClient, kernels: dict[KernelType, KernelCode], trials: int
) -> list[Outcome]:
    reference = KernelCode(source_code=_source("reference.py"), kernel_type=KernelType.TORCH)
    requests = [
        CompareRequest(
            ref_kernel=reference,
            custom_kernel=kernel,
            num_trials=trials,
            timeout=_TIMEOUT,
            seed=1,
        )
        for kernel in kernels.values()
    ]
    return judge_all(client, requests, [one.value for one in kernels], _describe)


def _describe(result: Judged) -> str:
    return result.verdict.value


def _expected(result: CompareResponse, gpu: bool) -> bool:
    """Whether the verdict is what the device can truthfully give."""
    if not gpu and result.kernel_exec_result.metadata.kernel_type in _NEEDS_GPU:
        return result.verdict is Verdict.UNSUPPORTED
    return result.verdict is Verdict.ACCEPTED


def _write(path: Path, results: list[CompareResponse]) -> None:
    content: list[dict[str, Any]] = [response_json(result) for result in results]
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    ERR.print(f"Wrote {path}", markup=False)


def _table(results: list[CompareResponse]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("kernel type", "verdict", "build"):
        table.add_column(heading, no_wrap=True)
    for heading in ("reference ms", "candidate ms", "speedup", "job"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        reference = result.reference.runtime if result.reference is not None else None
        build = result.candidate.build
        table.add_row(
            result.kernel_exec_result.metadata.kernel_type,
            verdict_text(result.verdict),
            build.way if build is not None else "–",
            milliseconds(reference),
            milliseconds(result.candidate.runtime),
            f"{result.speedup:.3g}×" if result.speedup is not None else "–",
            f"{sum(result.phase_seconds.values()):.2f} s",
        )
    return table


def _explain(results: list[CompareResponse], gpu: bool) -> None:
    for result in results:
        if not _expected(result, gpu):
            OUT.print()
            show_result(OUT, result)
    if not gpu and any(result.verdict is Verdict.UNSUPPORTED for result in results):
        OUT.print("This machine has no GPU: CUDA kernels are compiled and not run.")
