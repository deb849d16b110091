"""What all tests share: real servers in processes of their own, and whether there is a GPU."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("kerneljudge", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kerneljudge")

ROOT = Path(__file__).parents[1]

_COUNT_GPUS = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
raise SystemExit(driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count)
"""


@functools.cache
def gpu_available() -> bool:
    """Whether the CUDA driver sees a GPU. Asked in a process of its own, so that this one may
    still fork."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_GPUS], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not gpu_available():
        skip = pytest.mark.skip(reason="needs an NVIDIA GPU")
        for item in marked:
            item.add_marker(skip)


@dataclass(frozen=True)
class RunningServer:
    """A `kerneljudge serve` that answers."""

    url: str
    """Where, without a trailing slash."""
    process: subprocess.Popen[bytes]
    """Its process."""
    log_file: Path
    """What it printed."""

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace")


def _url_when_healthy(process: subprocess.Popen[bytes], log_file: Path, seconds: float) -> str:
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = log_file.read_text(errors="replace")
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log}", pytrace=False)
        found = re.search(r"KernelJudge listening on (http://\S+)\n", log)
        if found:
            with contextlib.suppress(httpx.TransportError):
                health = httpx.get(f"{found[1]}/health", timeout=10, trust_env=False)
                if health.status_code == 200:
                    return found[1]
        time.sleep(0.1)
    pytest.fail(f"the server was not healthy within {seconds:g} s:\n{log}", pytrace=False)


@pytest.fixture(scope="session")
def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU."""
    return gpu_available()


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers on free ports, and stops them when the session ends.

    `start_server(devices="cpu", **environment)` returns when the server is healthy. The
    environment's names are those of settings, such as `KERNELJUDGE_STANDBY="1"`. Each has a state
    folder of its own unless given one; the build cache is kept between sessions, as a user's is.
    """
    cache = pytestconfig.cache
    assert cache is not None
    cache_dir = cache.mkdir("kerneljudge-builds")
    started: list[subprocess.Popen[bytes]] = []

    def start(devices: str = "cpu", **environment: str) -> RunningServer:
        folder = tmp_path_factory.mktemp("server")
        log_file = folder / "log"
        with log_file.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "kerneljudge", "serve", "--port", "0"],
                env=os.environ
                | {
                    "KERNELJUDGE_DEVICES": devices,
                    "KERNELJUDGE_CACHE_DIR": str(cache_dir),
                    "KERNELJUDGE_STATE_DIR": str(folder / "state"),
                }
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return RunningServer(_url_when_healthy(process, log_file, 120), process, log_file)

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def cpu_server(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server that judges on the CPU."""
    return start_server("cpu")


@pytest.fixture(scope="session")
def gpu_server(start_server: Callable[..., RunningServer]) -> RunningServer:
    """A server that judges on the first GPU; for tests marked gpu."""
    return start_server("cuda:0")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, has_gpu: bool) -> RunningServer:
    """A server as a user starts one: on the GPU where there is one, else on the CPU."""
    running: RunningServer = request.getfixturevalue("gpu_server" if has_gpu else "cpu_server")
    return running


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"
