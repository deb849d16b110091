// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
#include <limits>
#include <algorithm>
#include <type_traits>

template <typename T>
__global__ void twice_plus_one(const T* x, T* y, int n) {
    static_assert(std::is_floating_point<T>::value, "a floating-point type");
    T bound = std::numeric_limits<T>::max();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = std::min(bound, std::max(-bound, T(2) * x[i] + T(1)));
}

torch::Tensor forward(torch::Tensor x) {
    auto y = torch::empty_like(x);
    int n = x.numel();
    twice_plus_one<float><<<(n + 255) / 256, 256>>>(x.data_ptr<float>(), y.data_ptr<float>(), n);
    return y;
}
