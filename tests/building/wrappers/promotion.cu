// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
// pow of a float and an integer is double to nvcc, as C++ has it.
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    static_assert(sizeof(pow(x[0], 2)) == sizeof(double), "promoted");
    static_assert(sizeof(fmax(x[0], 0)) == sizeof(double), "promoted");
    if (i < n) y[i] = sqrt(4) * x[i] + pow(x[i], 0);
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
