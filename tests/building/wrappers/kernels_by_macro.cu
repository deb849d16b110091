// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: 
#define DEFINE_KERNEL(name, expression) \
    __global__ void name(const float* x, float* y, int n) { \
        int i = blockIdx.x * blockDim.x + threadIdx.x; \
        if (i < n) y[i] = expression; \
    }

DEFINE_KERNEL(twice_plus_one, 2.0f * x[i] + 1.0f)

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
