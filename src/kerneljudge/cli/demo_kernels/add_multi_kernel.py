"""A candidate in two kernels: one half by Triton, the other by PyTorch."""

import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(a_ptr, b_ptr, out_ptr, n, block_size: tl.constexpr):
    """The elementwise sum, a block a program."""
    offsets = tl.program_id(0) * block_size + tl.arange(0, block_size)
    mask = offsets < n
    a = tl.load(a_ptr + offsets, mask=mask)
    b = tl.load(b_ptr + offsets, mask=mask)
    tl.store(out_ptr + offsets, a + b, mask=mask)


def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The elementwise sum, the upper rows by Triton and the lower by PyTorch."""
    out = torch.empty_like(a)
    rows = a.shape[0] // 2
    n = rows * a.shape[1]
    add_kernel[(triton.cdiv(n, 4096),)](a, b, out, n, block_size=4096)
    torch.add(a[rows:], b[rows:], out=out[rows:])
    return out
