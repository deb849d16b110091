"""A server whose devices judge in no time: what is left is HTTP, the store and the queue.

`python -m benchmarks.instant_server FOLDER` prints its URL and serves until its input ends. Its
reports are those of kernels that nobody ran; it is of no use but to be timed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

import kerneljudge
from kerneljudge.api.app import create_app
from kerneljudge.schema import (
    CompareRequest,
    Environment,
    JobReport,
    JobRequest,
    Phase,
    SideReport,
    Verdict,
)
from kerneljudge.service import DeviceState, JobService, Settings
from kerneljudge.service.store import SqlStore

_ENVIRONMENT = Environment(
    kerneljudge=kerneljudge.__version__, python="-", torch="-", device="cpu", device_name="none"
)


class _Instant:
    """An `Evaluator` that accepts everything, with one partial report for each phase."""

    def devices(self) -> list[DeviceState]:
        return [DeviceState(index=0, name="cpu", ready=True, environment=_ENVIRONMENT)]

    def builders(self) -> dict[str, int]:
        return {"size": 0, "busy": 0, "waiting": 0}

    async def judge(
        self,
        job_id: str,
        request: JobRequest,
        progress: Callable[[JobReport], None],
        device: int,
    ) -> JobReport:
        report = JobReport(
            verdict=Verdict.INTERNAL_ERROR,
            phase=Phase.READ,
            candidate=SideReport(compiled=True),
            reference=SideReport(compiled=True) if isinstance(request, CompareRequest) else None,
            seed=0,
            environment=_ENVIRONMENT,
        )
        for phase in (Phase.READ, Phase.BUILD, Phase.LOAD, Phase.CHECK, Phase.PROFILE):
            progress(report.model_copy(update={"phase": phase}))
            await asyncio.sleep(0)
        return report.model_copy(update={"phase": Phase.DONE, "verdict": Verdict.ACCEPTED})

    def on_change(self, call: Callable[[], None]) -> None:
        """Nothing ever changes."""


async def _serve(folder: Path) -> None:
    settings = Settings(state_dir=folder, devices=("cpu",))
    store = await SqlStore.open(settings.database_url)
    service = JobService(_Instant(), store=store, settings=settings)
    # With its protocol named: asyncio turns Nagle's algorithm off for such sockets alone.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(create_app(service, settings, store), log_level="warning")
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving
    await store.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
