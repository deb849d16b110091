// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
// a launch in a comment: twice_plus_one<<<1, 2>>>(x);
/* __global__ void other(float* x) { other<<<1, 1>>>(x); } */
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;  // } {
    if (i < n) y[i] = 2.0f * x[i] + 1.0f;
}

static const char* kText = "<<<grid, block>>> __global__ void { \" ";
static const char* kRaw = R"(a raw <<<1, 2>>> string with "quotes" and { braces)";

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = 1'000'000 > 1 ? x.numel() : 0;
    TORCH_CHECK(kText[0] == '<' && kRaw[0] == 'a', "not <<<");
    twice_plus_one<<<(n + 255) / 256, /* <<< */ 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);  // >>>
    return y;
}
