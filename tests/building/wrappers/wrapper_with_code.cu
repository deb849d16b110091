// cpp: void launch(const float* x, float* y, int n); static int threads() { return 256; } torch::Tensor forward(torch::Tensor x) { auto y = torch::empty_like(x); TORCH_CHECK(threads() == 256); launch(x.data_ptr<float>(), y.data_ptr<float>(), x.numel()); return y; }
// functions: forward
// expect: fast
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

void launch(const float* x, float* y, int n) { twice_plus_one<<<(n + 255) / 256, 256>>>(x, y, n); }
