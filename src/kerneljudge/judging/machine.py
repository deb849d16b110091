"""One device with everything that judging on it needs: zygote, standby runners, builds, leases."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch

import kerneljudge
from kerneljudge import building
from kerneljudge.judging.builds import Builds
from kerneljudge.judging.correctness import warm_comparison
from kerneljudge.judging.processes import (
    Limits,
    RunnerFault,
    RunnerProcess,
    ZygoteLost,
    ZygoteProcess,
)
from kerneljudge.judging.protocol import JudgeConfiguration
from kerneljudge.judging.tensors import Transport, choose_transport
from kerneljudge.judging.triton_cache import TritonCache
from kerneljudge.runtime.memory import CudaError
from kerneljudge.schema import GPU_TYPES, Environment

__all__ = ["Lease", "Machine"]

_ARCHITECTURE_WITHOUT_GPU = "sm_90"
_KEEPERS = 4
"""Threads that bury and start runners: a comparison uses up two, which two others replace."""
_MAX_FILL_FAILURES = 3


class Lease:
    """The right to use the device: one job at a time, given up while it waits for a build."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Lease:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def given_up(self) -> Iterator[None]:
        """Lets other jobs use the device meanwhile."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class Quiet:
    """Keeps what would disturb a measurement apart from measurements.

    Contexts are created and destroyed at any time, several at once, but for while something is
    timed or waits to be: a measurement waits for those under way, and for no others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._disturbing = 0
        self._timing = 0

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """For a measurement. The lease allows one at a time."""
        with self._changed:
            self._timing += 1
            self._changed.wait_for(lambda: not self._disturbing)
        try:
            yield
        finally:
            with self._changed:
                self._timing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def disturbing(self) -> Iterator[None]:
        """For what measurements must not run beside."""
        with self._changed:
            self._changed.wait_for(lambda: not self._timing)
            self._disturbing += 1
        try:
            yield
        finally:
            with self._changed:
                self._disturbing -= 1
                self._changed.notify_all()


class Machine:
    """A device, ready to judge."""

    def __init__(self, configuration: JudgeConfiguration) -> None:
        """Starts everything; takes seconds."""
        self.configuration = configuration
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
        self._cache = building.BuildCache(configuration.cache / "builds")
        self.triton_cache = TritonCache(
            configuration.cache / "triton-kernels",
            f"{self.environment.triton} {self.environment.architecture}",
        )
        self._standby: deque[RunnerProcess] = deque()
        self._retired: deque[tuple[RunnerProcess, Transport]] = deque()
        self._burying = 0
        self._starting = 0
        self._work = threading.Condition()
        self._closing = False
        self._fill_failures = 0
        self.zygote.wait_ready()
        self.builds = self._new_builds()
        first = RunnerProcess.start(self.zygote)
        self.layers = first.layers
        warm_comparison(self.device)
        self._standby.append(first)
        for number in range(_KEEPERS):
            threading.Thread(target=self._keep, name=f"standby-{number}", daemon=True).start()
        threading.Thread(target=self._prepare_header, name="header", daemon=True).start()

    @property
    def max_result_bytes(self) -> int:
        """What a kernel may return in one run."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return free
        return self.configuration.host_memory_bytes

    def take_runner(self) -> RunnerProcess:
        """A runner that has read nothing yet. Raises `ZygoteLost` or `RunnerFault`."""
        while True:
            with self._work:
                # One that is about to stand by comes sooner than a new one.
                self._work.wait_for(lambda: self._standby or not self._starting)
                runner = self._standby.popleft() if self._standby else None
            if runner is None:
                self.restart_zygote_if_lost()
                runner = RunnerProcess.start(self.zygote)
                with self._work:
                    # What kept others from standing by is over.
                    self._fill_failures = 0
                    self._work.notify_all()
                return runner
            if runner.child.alive:
                return runner
            runner.close()

    def retire(self, runner: RunnerProcess, transport: Transport) -> None:
        """Ends a runner, then gives back what it shared, when nothing is timed; and makes a new
        one stand by."""
        with self._work:
            self._retired.append((runner, transport))
            self._burying += 1
            self._work.notify_all()

    def make_room(self) -> None:
        """Where device memory is short, waits until that of ended jobs is given back."""
        if self.device.type != "cuda":
            return
        free, total = torch.cuda.mem_get_info(self.device)
        if free < total / 2:
            with self._work:
                self._work.wait_for(lambda: not self._burying)

    def bind_thread(self) -> None:
        """Makes the device the current one of this thread, as CUDA's driver calls need it."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def restart_zygote_if_lost(self) -> None:
        """A new zygote in place of one that ended; what it had forked died with it.

        Raises `ZygoteLost` if the new one ends as well before it forks.
        """
        with self._work:
            if not self.zygote.lost:
                return
            stale, self._standby = self._standby, deque()
            for runner in stale:
                runner.close()
            self.zygote.close()
            self.zygote = self._new_zygote()
            self.zygote.wait_ready()
            self.builds = self._new_builds()
            self._fill_failures = 0

    def check_device(self) -> None:
        """Raises RuntimeError where the judge's own use of the device is lost for good."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Ends every process."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        self.zygote.close()

    def _new_zygote(self) -> ZygoteProcess:
        return ZygoteProcess(
            self.configuration.device,
            self._limits,
            include_cache=self._include_cache,
            triton_seed=self._triton_seed,
        )

    def _new_builds(self) -> Builds:
        return Builds(self.zygote, self._cache, self.toolchain, self._include_cache)

    def _prepare_header(self) -> None:
        building.prepare_header(self.toolchain, self._include_cache)

    def _keep(self) -> None:
        """Buries retired runners and keeps new ones standing by, while nothing is timed."""
        self.bind_thread()
        while True:
            with self._work:
                self._work.wait_for(lambda: self._closing or self._retired or self._short)
                if self._closing:
                    return
                retired = self._retired.popleft() if self._retired else None
                if retired is None:
                    self._starting += 1
            with self.quiet.disturbing():
                if retired is not None:
                    self._bury(*retired)
                else:
                    self._add_standby()

    def _bury(self, runner: RunnerProcess, transport: Transport) -> None:
        try:
            runner.close()
            # Only now: memory that another process has opened may not be freed.
            transport.close()
        except (CudaError, OSError) as error:
            print(f"a runner's memory could not be given back: {error}", file=sys.stderr)
        finally:
            with self._work:
                self._burying -= 1
                self._work.notify_all()

    @property
    def _short(self) -> bool:
        return (
            len(self._standby) + self._starting < self.configuration.standby
            and not self.zygote.lost
            and self._fill_failures < _MAX_FILL_FAILURES
        )

    def _add_standby(self) -> None:
        runner = None
        try:
            runner = RunnerProcess.start(self.zygote)
        except (RunnerFault, ZygoteLost, OSError) as fault:
            # A job that then finds none standing by starts its own, and tells what is wrong.
            print(f"no runner could be made to stand by: {fault}", file=sys.stderr)
        finally:
            with self._work:
                self._starting -= 1
                if runner is None:
                    self._fill_failures += 1
                else:
                    self._fill_failures = 0
                    self._standby.append(runner)
                self._work.notify_all()


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
