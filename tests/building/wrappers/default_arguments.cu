// cpp: torch::Tensor forward(torch::Tensor x, int64_t threads = 256); torch::Tensor forward_default(torch::Tensor x);
// functions: forward_default
// expect: fast
__global__ void affine(const float* x, float* y, int n, float scale = 2.0f, float shift = 1.0f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = scale * x[i] + shift;
}

torch::Tensor forward(torch::Tensor x, int64_t threads = 256) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    affine<<<(n + threads - 1) / threads, threads>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
torch::Tensor forward_default(torch::Tensor x) { return forward(x); }
