// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <typename T>
__global__ void twice_plus_one(const T* x, T* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = T(2) * x[i] + T(1);
}

template <typename T>
void launch(const torch::Tensor& x, torch::Tensor& y) {
    int n = x.numel();
    twice_plus_one<T><<<(n + 255) / 256, 256>>>(x.data_ptr<T>(), y.data_ptr<T>(), n);
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    if (x.scalar_type() == torch::kFloat64) {
        launch<double>(x, y);
    } else {
        launch<float>(x, y);
    }
    return y;
}
