// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
__global__ void twice(const float* x, float* y, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = 2.0f * x[i];
}
__global__ void plus_one(float* y, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += 1.0f;
}
__global__ void unused(float* y) { y[0] = 0.0f; }

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice<<<64, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    plus_one<<<64, 256>>>(y.data_ptr<float>(), n);
    return y;
}
