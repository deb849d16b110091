"""`kerneljudge doctor`: what this machine can and cannot run, and why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import kerneljudge
from kerneljudge.cli.console import ERR, OUT, plain, print_json
from kerneljudge.cli.exits import Exit
from kerneljudge.schema import KernelType

__all__ = ["doctor"]

_SECONDS = 180


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    """What."""
    ok: bool
    """Whether it is there and works."""
    detail: str
    """Its version or place; or why it is not there, and what that costs."""


@dataclass(frozen=True)
class Ability:
    """Whether a device judges kernels of one type."""

    ok: bool
    """Whether it runs them."""
    how: str
    """How, or why not."""


@dataclass(frozen=True)
class Device:
    """One device and what it judges."""

    device: str
    """`cuda:0`, `cpu`…"""
    name: str
    """The GPU's or the processor's name."""
    abilities: dict[KernelType, Ability]
    """For each kernel type."""

    @property
    def judges(self) -> bool:
        """Whether it judges kernels of any type."""
        return any(ability.ok for ability in self.abilities.values())


class FactError(Exception):
    """A question about the machine has no answer; the message says why."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say what this machine can and cannot run, and why.

    Exit code: 0 if at least one device can judge, else 3.
    """
    with ERR.status("Looking around…"):
        findings, devices = _examine()
    able = any(device.judges for device in devices)
    if as_json:
        print_json(
            {
                "kerneljudge": kerneljudge.__version__,
                "can_judge": able,
                "checks": [asdict(finding) for finding in findings],
                "devices": [asdict(device) for device in devices],
            }
        )
    else:
        OUT.print(_findings_table(findings))
        OUT.print()
        OUT.print(_devices_table(devices))
        OUT.print()
        OUT.print(
            Text("This machine can judge.", style="bold green")
            if able
            else Text("This machine cannot judge: see what is missing above.", style="bold red")
        )
    raise typer.Exit(Exit.ACCEPTED if able else Exit.INFRASTRUCTURE)


def _ask(topic: str) -> Any:
    """Facts of `kerneljudge.cli.facts`. Raises `FactError` where its process fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kerneljudge.cli.facts", topic],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FactError(f"no answer within {_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise FactError(lines[-1] if lines else f"ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _examine() -> tuple[list[Finding], list[Device]]:
    findings = [
        Finding("Python", sys.version_info >= (3, 11), platform.python_version()),
    ]
    libraries = _libraries(findings)
    gpus = _gpus(findings)
    lacks = _compilers(findings)
    findings.append(_shared_memory())
    _sandbox(findings)
    devices = [
        Device(
            f"cuda:{index}",
            f"{gpu['name']}, {gpu['architecture']}, {gpu['memory_bytes'] / 2**30:.0f} GiB",
            _on_gpu(libraries, lacks),
        )
        for index, gpu in enumerate(gpus)
    ]
    devices.append(Device("cpu", _processor(), _on_cpu(libraries, lacks)))
    return findings, devices


_LOSSES = {
    "torch": "nothing can be judged without it",
    "triton": "no triton kernels",
    "cupy": "no multi_kernel script that imports CuPy",
    "numpy": "no Triton on the CPU",
}


def _libraries(findings: list[Finding]) -> set[str]:
    """The libraries that can be imported."""
    try:
        found = _ask("libraries")
    except FactError as error:
        findings.append(Finding("libraries", False, f"cannot be looked up: {error}"))
        return set()
    for name, fact in found.items():
        ok = fact["version"] is not None
        detail = fact["version"] if ok else f"{fact['reason']}: {_LOSSES[name]}"
        findings.append(Finding(name, ok, detail))
    return {name for name, fact in found.items() if fact["version"] is not None}


def _gpus(findings: list[Finding]) -> list[dict[str, Any]]:
    findings.append(_driver())
    try:
        facts = _ask("devices")
    except FactError as error:
        findings.append(Finding("CUDA in PyTorch", False, str(error)))
        return []
    gpus: list[dict[str, Any]] = facts["gpus"]
    findings.append(Finding("CUDA in PyTorch", bool(gpus), facts["reason"] or facts["cuda"]))
    for index, gpu in enumerate(gpus):
        ipc = gpu["transport"] == "cuda_ipc"
        reason = "tensors are shared" if ipc else f"{gpu['transport_reason']}: tensors are copied"
        findings.append(Finding(f"CUDA IPC, cuda:{index}", ipc, reason))
    return gpus


def _driver() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return Finding("NVIDIA driver", False, "there is no nvidia-smi: no GPU to judge on")
    except subprocess.TimeoutExpired:
        return Finding("NVIDIA driver", False, "nvidia-smi does not answer")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr or done.stdout).strip().partition("\n")[0] or "no GPU"
        return Finding("NVIDIA driver", False, f"nvidia-smi: {reason}")
    return Finding("NVIDIA driver", True, "; ".join(lines))


def _compilers(findings: list[Finding]) -> dict[str, list[str]]:
    """For each way of compiling, what it lacks: empty where it works."""
    try:
        facts = _ask("toolchain")
    except FactError as error:
        findings.append(Finding("compilers", False, f"cannot be looked up: {error}"))
        return {way: ["the facts"] for way in ("nvrtc", "nvcc", "fast", "extension")}
    findings.extend(
        Finding(part["name"], part["available"], part["detail"]) for part in facts["capabilities"]
    )
    missing: dict[str, list[str]] = facts["missing"]
    return missing


def _shared_memory() -> Finding:
    try:
        os.close(os.memfd_create("kerneljudge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        reason = f"memfd_create: {error.strerror}: no tensors can be shared on the CPU"
        return Finding("shared memory", False, reason)
    gibibytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Finding("shared memory", True, f"sealed memfd; {gibibytes:.1f} GiB of memory free")


def _sandbox(findings: list[Finding]) -> None:
    try:
        layers = _ask("sandbox")
    except FactError as error:
        findings.append(Finding("sandbox", False, f"cannot be tried: {error}"))
        return
    findings.extend(
        Finding(f"sandbox: {layer['name']}", layer["active"], layer["reason"] or "active")
        for layer in layers
    )


def _on_gpu(libraries: set[str], lacks: dict[str, list[str]]) -> dict[KernelType, Ability]:
    torch = "torch" in libraries
    return {
        KernelType.TORCH: _ability(torch, "PyTorch", "PyTorch is missing"),
        KernelType.TORCH_CUDA: _ability(
            torch and not (lacks["fast"] and lacks["extension"]),
            "nvcc" if lacks["fast"] else "NVRTC and g++",
            f"lacks {', '.join(lacks['fast'])}",
        ),
        KernelType.TRITON: _ability(torch and "triton" in libraries, "Triton", "Triton is missing"),
        KernelType.CUDA: _ability(
            torch and not (lacks["nvrtc"] and lacks["nvcc"]),
            "nvcc" if lacks["nvrtc"] else "NVRTC",
            f"lacks {', '.join(lacks['nvrtc'])}",
        ),
        KernelType.MULTI_KERNEL: _ability(torch, _mixed(libraries), "PyTorch is missing"),
    }


def _on_cpu(libraries: set[str], lacks: dict[str, list[str]]) -> dict[KernelType, Ability]:
    torch = "torch" in libraries
    compiled = "compiled, not run: running takes a GPU"
    return {
        KernelType.TORCH: _ability(torch, "PyTorch", "PyTorch is missing"),
        KernelType.TORCH_CUDA: Ability(False, "takes a GPU" if lacks["fast"] else compiled),
        KernelType.TRITON: _ability(
            {"torch", "triton", "numpy"} <= libraries,
            "Triton's interpreter",
            "needs PyTorch, Triton and NumPy",
        ),
        KernelType.CUDA: Ability(False, "takes a GPU" if lacks["nvrtc"] else compiled),
        KernelType.MULTI_KERNEL: _ability(
            torch, _mixed(libraries - {"cupy"}), "PyTorch is missing"
        ),
    }


def _mixed(libraries: set[str]) -> str:
    names = {"torch": "PyTorch", "triton": "Triton", "cupy": "CuPy"}
    return ", ".join(title for name, title in names.items() if name in libraries)


def _ability(ok: bool, how: str, why_not: str) -> Ability:
    return Ability(ok, how if ok else why_not)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _findings_table(findings: list[Finding]) -> Table:
    table = Table("check", "", "what", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.name, _mark(finding.ok), Text(plain(finding.detail)))
    return table


def _devices_table(devices: list[Device]) -> Table:
    table = Table("device", "kernel type", "", "how", box=None, pad_edge=False)
    for device in devices:
        first = Text.assemble((device.device, "bold"), f" {plain(device.name)}")
        for kernel_type, ability in device.abilities.items():
            table.add_row(first, kernel_type.value, _mark(ability.ok), Text(ability.how))
            first = Text()
    return table


def _mark(ok: bool) -> Text:
    return Text("yes", style="green") if ok else Text("no", style="yellow")
