"""A kernel that uses several streams gets the hardware queues for them."""

from __future__ import annotations

from typing import Any

import pytest

from kerneljudge.client import KernelJudgeClient

pytestmark = [pytest.mark.e2e, pytest.mark.gpu]

SOURCE = """
import os

import torch


def side_stream():
    return torch.cuda.Stream()


class Model(torch.nn.Module):
    def forward(self, x):
        assert "CUDA_DEVICE_MAX_CONNECTIONS" not in os.environ
        return x + 1


def get_inputs():
    return [torch.randn(64)]
"""


@pytest.mark.parametrize("device", ["gpu"], indirect=True)
def test_a_source_that_makes_streams_has_cudas_usual_hardware_queues(
    client: KernelJudgeClient,
) -> None:
    # Several in turn, so that what stands by is used up and made anew.
    kernel: dict[str, Any] = {"source_code": SOURCE, "kernel_type": "torch"}
    for _ in range(4):
        result = client.evaluate(kernel, num_trials=5)
        assert result.verdict == "accepted", result.fault
