// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: host code calls thrust::
#include <thrust/device_ptr.h>
#include <thrust/transform.h>

struct TwicePlusOne { __host__ __device__ float operator()(float v) const { return 2.0f * v + 1.0f; } };

__global__ void nothing() {}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    thrust::device_ptr<float> first(x.data_ptr<float>()), out(y.data_ptr<float>());
    thrust::transform(first, first + x.numel(), out, TwicePlusOne());
    return y;
}
