"""A comparison that every device in order accepts."""

from __future__ import annotations

from kerneljudge.contract import IOContract, IOContractBuilder, create_randn_spec
from kerneljudge.schema import CompareRequest, KernelCode, KernelType

__all__ = ["SELF_TEST", "SELF_TEST_WITH_TRITON"]

_REFERENCE = """
import torch


class Model(torch.nn.Module):
    def forward(self, a, b):
        return a + b


def get_inputs():
    return [torch.randn(64, 128), torch.randn(64, 128)]


def get_init_inputs():
    return []
"""

_TORCH = """
import torch


class ModelNew(torch.nn.Module):
    def forward(self, a, b):
        return b + a
"""

_TRITON = """
import triton
import triton.language as tl


@triton.jit
def add(a, b, out, n, block: tl.constexpr):
    offsets = tl.program_id(0) * block + tl.arange(0, block)
    mask = offsets < n
    sums = tl.load(a + offsets, mask=mask) + tl.load(b + offsets, mask=mask)
    tl.store(out + offsets, sums, mask=mask)
"""
_SHAPE = [64, 128]
_SIZE, _BLOCK = 64 * 128, 1024


def _contract() -> IOContract:
    return (
        IOContractBuilder()
        .add_input_tensor("a", create_randn_spec(_SHAPE))
        .add_input_tensor("b", create_randn_spec(_SHAPE))
        .add_output_tensor("out", shape=_SHAPE)
        .add_scalar("n", "int", _SIZE)
        .add_meta_param("block", _BLOCK)
        .set_grid(_SIZE // _BLOCK)
        .build()
    )


def _against(candidate: KernelCode) -> CompareRequest:
    return CompareRequest(
        ref_kernel=KernelCode(source_code=_REFERENCE, kernel_type=KernelType.TORCH),
        custom_kernel=candidate,
        num_trials=3,
        num_warmup=1,
        timeout=120,
        seed=0,
    )


SELF_TEST = _against(KernelCode(source_code=_TORCH, kernel_type=KernelType.TORCH))
"""PyTorch against itself."""
SELF_TEST_WITH_TRITON = _against(
    KernelCode(source_code=_TRITON, kernel_type=KernelType.TRITON, io=_contract())
)
"""PyTorch against Triton."""
