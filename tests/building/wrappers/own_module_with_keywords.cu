// cpp: torch::Tensor run(torch::Tensor x, int64_t threads); PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("forward", &run, py::arg("x"), py::arg("threads") = 256); }
// functions: 
// expect: nvcc: a PYBIND11_MODULE with more
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

torch::Tensor run(torch::Tensor x, int64_t threads) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + threads - 1) / threads, threads>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
