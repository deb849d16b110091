"""A candidate in CUDA C++, inside a PyTorch extension."""

import torch
from torch import nn
from torch.utils.cpp_extension import load_inline

cuda_source = """
#include <torch/extension.h>

__global__ void add_kernel(const float4* a, const float4* b, float4* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float4 x = a[i], y = b[i];
        out[i] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
    }
}

torch::Tensor add(torch::Tensor a, torch::Tensor b) {
    auto out = torch::empty_like(a);
    int n = a.numel() / 4;
    add_kernel<<<(n + 127) / 128, 128>>>(
        reinterpret_cast<const float4*>(a.data_ptr<float>()),
        reinterpret_cast<const float4*>(b.data_ptr<float>()),
        reinterpret_cast<float4*>(out.data_ptr<float>()),
        n);
    return out;
}
"""

cpp_source = "torch::Tensor add(torch::Tensor a, torch::Tensor b);"

extension = load_inline(
    name="demo_add", cpp_sources=cpp_source, cuda_sources=cuda_source, functions=["add"]
)


class ModelNew(nn.Module):
    """Adds two matrices, four elements a thread."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The elementwise sum."""
        return extension.add(a, b)
