"""Clocks and the statistics of their samples."""

from kerneljudge.timing.statistics import percentile, summarize

__all__ = ["percentile", "summarize"]
