// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: line 5 could not be read
template <typename... Ts>
__global__ void sum_into(float* y, int n, const Ts*... xs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (xs[i] + ...) + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    const float* in = x.data_ptr<float>();
    sum_into<<<(n + 255) / 256, 256>>>(y.data_ptr<float>(), n, in, in);
    return y;
}
