"""Measurements of KernelJudge, each a command: `python -m benchmarks.NAME --help`."""
