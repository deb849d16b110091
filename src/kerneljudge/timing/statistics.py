"""From samples to the statistics that a result shows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from kerneljudge.schema import RuntimeStats

__all__ = ["percentile", "summarize"]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted samples lie.

    Linear interpolation between neighbours, the definition of `numpy.percentile`'s default
    (Hyndman and Fan 1996, type 7).
    """
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def summarize(samples_ms: Sequence[float]) -> RuntimeStats:
    """Statistics of one or more samples, in milliseconds."""
    ordered = sorted(samples_ms)
    return RuntimeStats(
        mean=statistics.fmean(ordered),
        std=statistics.pstdev(ordered),
        min=ordered[0],
        max=ordered[-1],
        median=percentile(ordered, 0.5),
        percentile_95=percentile(ordered, 0.95),
        percentile_99=percentile(ordered, 0.99),
    )
