"""One device with everything that judging on it needs: zygote, standby runners, builds, leases."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from pathlib import Path

import torch

import kerneljudge
from kerneljudge import building
from kerneljudge.judging import caches, host
from kerneljudge.judging.builds import Builds
from kerneljudge.judging.correctness import warm_comparison
from kerneljudge.judging.lease import Lease, Quiet
from kerneljudge.judging.permits import Permits
from kerneljudge.judging.processes import Limits, RunnerProcess, ZygoteProcess
from kerneljudge.judging.protocol import JudgeConfiguration
from kerneljudge.judging.runners import Runners, preparation_for
from kerneljudge.judging.sessions import Session
from kerneljudge.judging.tensors import Transport, choose_transport
from kerneljudge.judging.triton_cache import TritonCache
from kerneljudge.runtime.messages import SandboxLayer
from kerneljudge.schema import GPU_TYPES, Environment, KernelCode

__all__ = ["Machine"]

_ARCHITECTURE_WITHOUT_GPU = "sm_90"
_CACHED_BYTES = 2**30


class Machine:
    """A device, ready to judge."""

    def __init__(
        self, configuration: JudgeConfiguration, permits: Permits, hidden: SandboxLayer
    ) -> None:
        """Starts everything; takes seconds. `hidden` tells whether it sees its own device alone."""
        self.configuration = configuration
        self._permits = permits
        self._limits = Limits(memory_bytes=configuration.host_memory_bytes)
        self._include_cache = configuration.cache / "include"
        self._include_cache.mkdir(parents=True, exist_ok=True)
        self._triton_seed = configuration.cache / f"triton-{_version('triton')}"
        self._triton_seed.mkdir(exist_ok=True)
        self.zygote = self._new_zygote()
        self.device = (
            torch.device("cuda", 0) if configuration.device == "cuda" else torch.device("cpu")
        )
        self.toolchain = building.Toolchain.detect()
        self.environment = _environment(configuration, self.device)
        self.architecture = (
            self.environment.architecture or configuration.architecture or _ARCHITECTURE_WITHOUT_GPU
        )
        self.lease = Lease()
        self.quiet = Quiet()
        self.transport, self.transport_reason = choose_transport(self.device)
        self._cache = building.BuildCache(configuration.cache / caches.BUILDS)
        self.triton_cache = TritonCache(
            configuration.cache / caches.TRITON_KERNELS,
            f"{self.environment.triton} {self.environment.architecture}",
        )
        self.runners = Runners(
            lambda: self.zygote,
            self.quiet,
            configuration.standby,
            configuration.reference_runners,
            self.bind_thread,
        )
        self._restarting = threading.Lock()
        self.zygote.wait_ready()
        self.builds = self._new_builds()
        first = RunnerProcess.start(self.zygote, "operators", self.quiet.disturbing)
        self.layers = [hidden, *first.layers]
        warm_comparison(self.device)
        self.runners.start(first)
        threading.Thread(target=self._prepare_header, name="header", daemon=True).start()

    @property
    def memory_bytes(self) -> int:
        """Memory of the device; of the host, for a CPU."""
        if self.device.type == "cuda":
            _, total = torch.cuda.mem_get_info(self.device)
            return total
        return host.memory_bytes()

    @property
    def max_result_bytes(self) -> int:
        """What a kernel may return in one run."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return free
        return self.configuration.host_memory_bytes

    def open_session(self, kernel: KernelCode) -> Session:
        """With a runner that has read nothing yet, prepared for such a kernel.

        Raises `ZygoteLost` or `RunnerFault`.
        """
        self.restart_zygote_if_lost()
        # Without a context to open, every runner is prepared for everything.
        cuda = self.device.type == "cuda"
        runner = self.runners.take(preparation_for(kernel) if cuda else "launches")
        return Session(runner, Transport(runner, self.device, self.transport))

    def make_room(self) -> None:
        """Where device memory is short, waits until no other job's is left."""
        if self.device.type != "cuda":
            return
        free, total = torch.cuda.mem_get_info(self.device)
        if free < total / 2:
            self.runners.make_room()

    def free_cache(self) -> None:
        """Gives back what the judge's own allocator has kept, where that is much. A little may
        stay: to allocate memory, a process waits for every context that is made meanwhile."""
        if self.device.type == "cuda" and torch.cuda.memory_reserved() > _CACHED_BYTES:
            torch.cuda.empty_cache()

    def bind_thread(self) -> None:
        """Makes the device the current one of this thread, as CUDA's driver calls need it."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def restart_zygote_if_lost(self) -> None:
        """A new zygote in place of one that ended; what it had forked died with it.

        Raises `ZygoteLost` if the new one ends as well before it forks.
        """
        with self._restarting:
            if not self.zygote.lost:
                return
            self.zygote.close()
            self.zygote = self._new_zygote()
            self.zygote.wait_ready()
            self.builds = self._new_builds()
            self.runners.discard()

    def check_device(self) -> None:
        """Raises RuntimeError where the judge's own use of the device is lost for good."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Ends every process."""
        self.runners.close()
        self.zygote.close()

    def _new_zygote(self) -> ZygoteProcess:
        return ZygoteProcess(
            self.configuration.device,
            self._limits,
            include_cache=self._include_cache,
            triton_seed=self._triton_seed,
        )

    def _new_builds(self) -> Builds:
        return Builds(self.zygote, self._cache, self.toolchain, self._permits)

    def _prepare_header(self) -> None:
        building.prepare_header(self.toolchain, self._include_cache)


def _environment(configuration: JudgeConfiguration, device: torch.device) -> Environment:
    cuda = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else None
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    return Environment(
        kerneljudge=kerneljudge.__version__,
        python=sys.version.split()[0],
        torch=torch.__version__,
        triton=_version("triton"),
        cupy=_version("cupy-cuda13x") or _version("cupy-cuda12x"),
        cuda=torch.version.cuda,
        driver=_driver() if cuda else None,
        device=configuration.name,
        device_name=name,
        gpu_type=next((kind for kind in GPU_TYPES if kind in name.lower()), None),
        architecture=f"sm_{capability[0]}{capability[1]}" if capability else None,
    )


@functools.cache
def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The driver's version, from nvidia-smi: NVML's Python package is optional."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"
