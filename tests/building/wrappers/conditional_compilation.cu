// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
#ifndef SCALE
#define SCALE 2.0f
#endif
#if defined(NEVER_DEFINED)
__global__ void twice_plus_one(const float* x, float* y) { y[0] = 0.0f; }
#else
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
#if __CUDA_ARCH__ >= 500
    if (i < n) y[i] = SCALE * x[i] + 1.0f;
#endif
}
#endif

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
