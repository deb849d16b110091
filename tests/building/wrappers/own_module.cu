// cpp: torch::Tensor run(torch::Tensor x); PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("forward", &run, "twice, plus one"); }
// functions: 
// expect: fast
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor run(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
