// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
constexpr int kThreads = 256;
constexpr float kTable[2] = {2.0f, 1.0f};
const float kScale = 2.0f;
static const int kOne = 1;
enum { kTwo = 2 };
__constant__ float kOffset = 1.0f;
__device__ float kFactor[2] = {2.0f, 1.0f};
constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
static std::string g_name = "constants";

__global__ void __launch_bounds__(kThreads) twice_plus_one(const float* x, float* y, int n) {
    int i = blockIdx.x * kThreads + threadIdx.x;
    if (i < n) y[i] = kScale * x[i] * kFactor[0] / kTable[0] * kTwo / 2 + kOffset * kOne;
    if (ceil_div(n, kThreads) == 0) y[i] = 0;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<ceil_div(n, kThreads), kThreads>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
