"""A candidate in Triton."""

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
