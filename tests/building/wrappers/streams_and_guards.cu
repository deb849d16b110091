// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
// needs: torch_cuda
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAException.h>

__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    const at::cuda::OptionalCUDAGuard guard(x.device());
    auto y = torch::empty_like(x);
    int n = x.numel();
    cudaStream_t stream = at::cuda::getCurrentCUDAStream();
    twice_plus_one<<<(n + 511) / 512, 256, 0, stream>>>(x.data_ptr<float>(), y.data_ptr<float>(), n / 2);
    twice_plus_one<<<(n + 511) / 512, 256, 0, at::cuda::getCurrentCUDAStream()>>>(
        x.data_ptr<float>() + n / 2, y.data_ptr<float>() + n / 2, n - n / 2);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return y;
}
