// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
// dtype: float16
#include <cuda_fp16.h>

__global__ void twice_plus_one(const __half* x, half* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __hadd(__hmul(__float2half(2.0f), x[i]), __float2half(1.0f));
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(
        reinterpret_cast<const __half*>(x.data_ptr<at::Half>()),
        reinterpret_cast<__half*>(y.data_ptr<at::Half>()), n);
    return y;
}
