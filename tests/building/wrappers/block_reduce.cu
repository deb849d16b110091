// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
#include <cub/cub.cuh>

template <int THREADS>
__global__ void twice_plus_one(const float* x, float* y, int n) {
    using Reduce = cub::BlockReduce<float, THREADS>;
    __shared__ typename Reduce::TempStorage storage;
    int i = blockIdx.x * THREADS + threadIdx.x;
    float v = i < n ? x[i] : 0.0f;
    float sum = Reduce(storage).Sum(v);
    if (i < n) y[i] = 2.0f * v + 1.0f + 0.0f * sum;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<256><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
