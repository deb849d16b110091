// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <typename T>
__global__ void twice_plus_one(const T* x, T* y, int n) { }

template <>
__global__ void twice_plus_one<float>(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<float><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
