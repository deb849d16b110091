"""The clocks that run beside a kernel, in its own process.

Their samples are the kernel's own account of its time: what a result makes of them is the
judge's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["ClockName", "Measurement", "measure"]

ClockName = Literal["cuda_graph", "cuda_events", "monotonic"]

_CAPTURE_WARMUP = 3
"""Runs on the capture stream before capture, as torch's own guide to CUDA graphs has it."""


@dataclass(frozen=True)
class Measurement:
    """Samples of one kernel."""

    clock: ClockName
    """What took them."""
    fallback_reason: str | None
    """Why the preferred clock did not."""
    samples_ms: list[float]
    """Milliseconds a run."""


def measure(
    calls: Sequence[Callable[[], object]],
    *,
    device: torch.device,
    warmup: int,
    samples: int,
    clock: Literal["auto", "cuda_events"] = "auto",
) -> Measurement:
    """Times `samples` runs, taking the calls (one a slot) in turn, after `warmup` untimed ones.

    On a GPU each call is captured as a CUDA graph on a side stream, its buffers being static, and
    events are put around replays. A call that cannot be captured is timed by events around it,
    with the reason given. On a CPU the monotonic clock is put around each call. What the kernel
    itself raises is raised.
    """
    if device.type != "cuda":
        for run in range(warmup):
            calls[run % len(calls)]()
        return Measurement("monotonic", None, _time_by_monotonic(calls, samples))
    for run in range(warmup):
        calls[run % len(calls)]()
    torch.cuda.synchronize(device)
    reason: str | None = "events were asked for"
    if clock == "auto":
        graphs, reason = _capture(calls, device)
        if graphs is not None:
            for graph in graphs:
                graph.replay()
            replays = [graph.replay for graph in graphs]
            return Measurement("cuda_graph", None, _time_by_events(replays, samples, device))
    return Measurement("cuda_events", reason, _time_by_events(calls, samples, device))


def _capture(
    calls: Sequence[Callable[[], object]], device: torch.device
) -> tuple[list[torch.cuda.CUDAGraph] | None, str | None]:
    """One graph a call, or why there is none."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for call in calls:
            for _ in range(_CAPTURE_WARMUP):
                call()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    graphs = []
    for call in calls:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        try:
            with torch.cuda.graph(graph, stream=stream):
                call()
            # An empty graph replays in no time: the work went where capture cannot see it.
            if _is_empty(graph):
                return None, "the captured graph is empty: the work was not on the capture stream"
            graph.instantiate()
        except RuntimeError as error:
            # Capture is what failed, not the kernel, if the device still works.
            torch.cuda.synchronize(device)
            return None, f"CUDA graph capture failed: {str(error).strip().splitlines()[0]}"
        graphs.append(graph)
    torch.cuda.synchronize(device)
    return graphs, None


def _is_empty(graph: torch.cuda.CUDAGraph) -> bool:
    from cuda.bindings import driver

    status, _, count = driver.cuGraphGetNodes(driver.CUgraph(graph.raw_cuda_graph()))
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"cuGraphGetNodes: {status.name}")
    return int(count) == 0


def _time_by_events(
    calls: Sequence[Callable[[], object]], samples: int, device: torch.device
) -> list[float]:
    starts = [torch.cuda.Event(enable_timing=True) for _ in range(samples)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(samples)]
    for run in range(samples):
        call = calls[run % len(calls)]
        starts[run].record()
        call()
        ends[run].record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]


def _time_by_monotonic(calls: Sequence[Callable[[], object]], samples: int) -> list[float]:
    times = []
    for run in range(samples):
        call = calls[run % len(calls)]
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times
