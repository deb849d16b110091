// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
__global__ void __cluster_dims__(2, 1, 1) twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    int blocks = (n + 255) / 256;
    twice_plus_one<<<blocks + blocks % 2, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
