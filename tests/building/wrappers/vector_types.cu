// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
__global__ void twice_plus_one(const float4* __restrict__ x, float4* __restrict__ y, float2 weights, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float4 v = x[i];
        y[i] = make_float4(weights.x * v.x + weights.y, weights.x * v.y + weights.y,
                           weights.x * v.z + weights.y, weights.x * v.w + weights.y);
    }
}

torch::Tensor forward(torch::Tensor x) {
    TORCH_CHECK(x.numel() % 4 == 0);
    auto y = torch::empty_like(x);
    int n = x.numel() / 4;
    twice_plus_one<<<(n + 255) / 256, 256>>>(
        reinterpret_cast<const float4*>(x.data_ptr<float>()),
        reinterpret_cast<float4*>(y.data_ptr<float>()), make_float2(2.0f, 1.0f), n);
    return y;
}
