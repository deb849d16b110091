// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <int THREADS>
__global__ void twice_plus_one(const float* x, float* y, int n) {
    extern __shared__ __align__(16) unsigned char storage[];
    float* tile = reinterpret_cast<float*>(storage);
    int i = blockIdx.x * THREADS + threadIdx.x;
    tile[threadIdx.x * 64] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) y[i] = 2.0f * tile[threadIdx.x * 64] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    constexpr int bytes = 256 * 64 * sizeof(float);
    cudaError_t error = cudaFuncSetAttribute(
        (const void*)twice_plus_one<256>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    TORCH_CHECK(error == cudaSuccess, cudaGetErrorString(error));
    twice_plus_one<256><<<(n + 255) / 256, 256, bytes>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
