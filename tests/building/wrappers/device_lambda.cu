// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: 
// flags: --extended-lambda
template <typename F>
__global__ void map(const float* x, float* y, int n, F f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = f(x[i]);
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    float scale = 2.0f;
    map<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n,
                                  [=] __device__(float v) { return scale * v + 1.0f; });
    return y;
}
