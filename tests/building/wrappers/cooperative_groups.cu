// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;

__global__ void twice_plus_one(const float* x, float* y, int n) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = i < n ? x[i] : 0.0f;
    float sum = cg::reduce(warp, v, cg::plus<float>());
    if (i < n) y[i] = 2.0f * v + 1.0f + 0.0f * sum;
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
