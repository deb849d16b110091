// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
__global__ void twice_plus_one(const float* x, float* y, int n) {
    extern __shared__ float tile[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = 2.0f * tile[threadIdx.x] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel(), threads = 256;
    size_t bytes = threads * sizeof(float);
    twice_plus_one<<<(n + threads - 1) / threads, threads, bytes>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
