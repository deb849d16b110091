"""Minimal kernels for the tests: a reference, and candidates made from one line."""

from __future__ import annotations

import textwrap
from typing import Any

REFERENCE = """
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, a, b):
        return a + b


def get_inputs():
    return [torch.randn(64, 32), torch.randn(64, 32)]


def get_init_inputs():
    return []
"""


def kernel(source: str, kernel_type: str = "torch", **fields: Any) -> dict[str, Any]:
    """A kernel as a request has it."""
    return {"source_code": textwrap.dedent(source), "kernel_type": kernel_type, **fields}


def candidate(body: str, top: str = "") -> dict[str, Any]:
    """A `ModelNew` whose forward has this body."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
    return kernel(
        "import torch\nimport torch.nn as nn\n"
        + textwrap.dedent(top)
        + f"\n\nclass ModelNew(nn.Module):\n    def forward(self, a, b):\n{lines}\n"
    )


def reference(forward: str, inputs: str, init: str = "", init_inputs: str = "[]") -> dict[str, Any]:
    """A KernelBench problem of these expressions."""
    return kernel(
        f"""
import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self, *args):
        super().__init__()
        {init or "pass"}

    def forward(self, *args):
        {forward}


def get_inputs():
    return {inputs}


def get_init_inputs():
    return {init_inputs}
"""
    )


def renamed(problem: dict[str, Any]) -> dict[str, Any]:
    """The problem as its own candidate."""
    return problem | {
        "source_code": problem["source_code"].replace("class Model(", "class ModelNew(")
    }
