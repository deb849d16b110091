// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: host code uses the device variable weights
__constant__ float weights[2];

__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = weights[0] * x[i] + weights[1];
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    float host[2] = {2.0f, 1.0f};
    cudaMemcpyToSymbol(weights, host, sizeof(host));
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
