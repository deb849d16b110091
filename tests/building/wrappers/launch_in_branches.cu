// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
template <int UNROLL>
__global__ void twice_plus_one(const float* x, float* y, int n) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * UNROLL;
    for (int k = 0; k < UNROLL; ++k)
        if (i + k < n) y[i + k] = 2.0f * x[i + k] + 1.0f;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    if (n % 4 == 0)
        twice_plus_one<4><<<(n / 4 + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    else if (n % 2 == 0) {
        twice_plus_one<2><<<(n / 2 + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    } else
        twice_plus_one<1><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    for (int step = 0; step < 2; ++step) twice_plus_one<1><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    switch (n % 2) {
        case 0: twice_plus_one<1><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n); break;
        default: break;
    }
    return y;
}
