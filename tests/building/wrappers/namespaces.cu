// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
namespace outer {
namespace {
__device__ float twice(float x) { return 2.0f * x; }

template <typename T>
__global__ void twice_plus_one(const T* x, T* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = twice(x[i]) + T(1);
}
}  // namespace

namespace inner {
__global__ void copy(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
}  // namespace inner

torch::Tensor run(torch::Tensor x) {
    auto y = torch::empty_like(x);
    auto z = torch::empty_like(x);
    int n = x.numel();
    inner::copy<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), z.data_ptr<float>(), n);
    twice_plus_one<float><<<(n + 255) / 256, 256>>>(z.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
}  // namespace outer

torch::Tensor forward(torch::Tensor x) { return outer::run(x); }
