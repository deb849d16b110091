import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

cuda_source = """
#include <torch/extension.h>

__global__ void add_kernel_REVISION(const float* x, const float* y, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = x[i] + y[i];
    }
}

torch::Tensor add_REVISION(torch::Tensor x, torch::Tensor y) {
    auto out = torch::empty_like(x);
    int n = x.numel();
    const int threads = 256;
    add_kernel_REVISION<<<(n + threads - 1) / threads, threads>>>(
        x.data_ptr<float>(), y.data_ptr<float>(), out.data_ptr<float>(), n);
    return out;
}
"""

cpp_source = "torch::Tensor add_REVISION(torch::Tensor x, torch::Tensor y);"

extension = load_inline(
    name="add_extension_REVISION",
    cpp_sources=cpp_source,
    cuda_sources=cuda_source,
    functions=["add_REVISION"],
)


class ModelNew(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return extension.add_REVISION(x, y)
