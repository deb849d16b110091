// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
struct Twice { __device__ float operator()(float x) const { return 2.0f * x; } };
struct PlusOne { __device__ float operator()(float x) const { return x + 1.0f; } };
enum class Order { First, Second };

template <typename F, typename G, Order order>
__global__ void compose(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = order == Order::First ? G()(F()(x[i])) : F()(G()(x[i]));
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    compose<Twice, PlusOne, Order::First><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
