// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
static __global__ void twice_plus_one(const float*, float* y, int n);
__device__ float twice(float x);
torch::Tensor helper(torch::Tensor x);

torch::Tensor forward(torch::Tensor x) { return helper(x); }

torch::Tensor helper(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}

static __global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = twice(x[i]) + 1.0f;
}
__device__ float twice(float x) { return 2.0f * x; }
