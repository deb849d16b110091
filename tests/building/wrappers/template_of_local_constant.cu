// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <int BLOCK>
__global__ void twice_plus_one(const float* x, float* y, int n) {
    __shared__ float tile[BLOCK];
    int i = blockIdx.x * BLOCK + threadIdx.x;
    if (i < n) tile[threadIdx.x] = x[i];
    __syncthreads();
    if (i < n) y[i] = 2.0f * tile[threadIdx.x] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    constexpr int kBlock = 128;
    int n = x.numel();
    twice_plus_one<kBlock><<<(n + kBlock - 1) / kBlock, kBlock>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
