// cpp: torch::Tensor forward(torch::Tensor x); std::vector<torch::Tensor> forward_all(torch::Tensor x, const c10::optional<torch::Tensor>& bias, std::vector<int64_t> sizes, double scale, bool flag, const std::string& name); std::tuple<torch::Tensor, int, float> forward_tuple(torch::Tensor& x, unsigned int n, size_t m); void forward_none(const torch::Tensor& x);
// functions: forward forward_all forward_tuple forward_none
// expect: fast
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

std::vector<torch::Tensor> forward_all(torch::Tensor x, const c10::optional<torch::Tensor>& bias,
                                       std::vector<int64_t> sizes, double scale, bool flag,
                                       const std::string& name) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    if (bias.has_value() && flag) y = y + *bias * scale;
    return {y, y.clone()};
}
std::tuple<torch::Tensor, int, float> forward_tuple(torch::Tensor& x, unsigned int n, size_t m) {
    return {x, static_cast<int>(n + m), 0.5f};
}
void forward_none(const torch::Tensor& x) { (void)x; }
torch::Tensor forward(torch::Tensor x) { return forward_all(x, c10::nullopt, {}, 1.0, true, "n")[0]; }
