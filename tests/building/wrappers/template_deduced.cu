// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <typename T>
__global__ void twice_plus_one(const T* x, T* y, T scale, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = scale * x[i] + T(1);
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), 2.0f, n);
    return y;
}
