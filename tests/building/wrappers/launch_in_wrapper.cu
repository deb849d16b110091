// cpp: torch::Tensor forward(torch::Tensor a) { auto size = a.numel(); auto out = torch::zeros_like(a); const int block_size = 256; const int num_blocks = (size + block_size - 1) / block_size; elementwise<<<num_blocks, block_size>>>(a.data_ptr<float>(), out.data_ptr<float>(), size); return out; }
// functions: forward
// expect: fast
#include <torch/extension.h>
#include <cuda_runtime.h>

__global__ void elementwise(const float* a, float* out, int size) {
    int idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx < size) out[idx] = 2.0f * a[idx] + 1.0f;
}
