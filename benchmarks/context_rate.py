"""CUDA contexts a second: what the driver of this machine allows, on one GPU and on all.

Every isolated kernel needs a process with a context of its own, so this bounds what any number of
GPUs can judge. So many workers a GPU as are asked for fork a process that opens a context, and
kill it, again and again; each GPU is held open meanwhile, as a judge holds it, and each worker sees
its own GPU alone.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from kerneljudge.runtime.sandbox import hide_gpus
from kerneljudge.service.gpus import visible_gpus


def _open_context() -> None:
    """Raises RuntimeError where the driver refuses."""
    driver = ctypes.CDLL("libcuda.so.1")
    context = ctypes.c_void_p()
    status = driver.cuInit(0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    if status:
        raise RuntimeError(f"CUDA's driver fails with error {status}")


def _see_only(gpu: str) -> None:
    os.environ |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu,
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    }
    hide_gpus(gpu)


def _hold(gpu: str, ready: Connection) -> None:
    _see_only(gpu)
    _open_context()
    ready.send(True)
    signal.pause()


def _work(gpu: str, until: float, result: Connection) -> None:
    """Counts contexts opened and destroyed until a time of the monotonic clock."""
    _see_only(gpu)
    count = 0
    while time.monotonic() < until:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _open_context()
                os.write(write, b"1")
                signal.pause()
            finally:
                os._exit(1)
        os.close(write)
        opened = os.read(read, 1)
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not opened:
            raise SystemExit("a context could not be opened")
        count += 1
    result.send(count)


def rate(gpus: list[str], workers: int, seconds: float) -> float:
    """Contexts a second over all these GPUs."""
    begun = time.monotonic()
    running = []
    for gpu in gpus:
        for _ in range(workers):
            receive, send = Pipe(duplex=False)
            process = Process(target=_work, args=(gpu, begun + seconds, send))
            process.start()
            running.append((process, receive))
    count = 0
    for process, receive in running:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a worker ended with {process.exitcode}")
        count += receive.recv()
    return count / (time.monotonic() - begun)


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.context_rate", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3, 6], help="a GPU (1 3 6)")
    parser.add_argument("--seconds", type=float, default=3, help="each measurement (3)")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    arguments = parser.parse_args()
    gpus = visible_gpus()
    if not gpus:
        raise SystemExit("there is no NVIDIA GPU")
    holders = []
    for gpu in gpus:
        receive, send = Pipe(duplex=False)
        holders.append(Process(target=_hold, args=(gpu, send), daemon=True))
        holders[-1].start()
        receive.recv()
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    for key, value in describe("benchmarks.context_rate", arguments.commit, {}).items():
        console.print(f"{key}: {value}", markup=False, soft_wrap=True)
    table = Table("GPUs", "workers a GPU", "contexts a second", title="CUDA contexts")
    for count in dict.fromkeys((1, len(gpus))):
        for workers in arguments.workers:
            found = rate(gpus[:count], workers, arguments.seconds)
            table.add_row(str(count), str(workers), f"{found:.2f}")
    console.print(table)
    for holder in holders:
        holder.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
