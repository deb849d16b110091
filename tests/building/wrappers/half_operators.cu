// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
// dtype: float16
// flags: -U__CUDA_NO_HALF_OPERATORS__ -U__CUDA_NO_HALF_CONVERSIONS__ -O3 --use_fast_math
#include <cuda_fp16.h>
#include <cuda_bf16.h>

__global__ void twice_plus_one(const half* x, half* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = half(2.0f) * x[i] + half(1.0f);
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>((const half*)x.data_ptr(), (half*)y.data_ptr(), n);
    return y;
}
