// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
#include <stdexcept>

__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    if (!x.is_contiguous()) throw std::runtime_error("x must be contiguous");
    TORCH_CHECK(x.dim() > 0, "x has ", x.dim(), " dimensions");
    auto y = torch::zeros_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    cudaError_t err = cudaGetLastError();
    if (err != cudaSuccess) {
        printf("CUDA error: %s\n", cudaGetErrorString(err));
        throw std::runtime_error(cudaGetErrorString(err));
    }
    return y;
}
