// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: nvcc: the fast way did not compile
struct Affine {
    float scale;
    float shift;
    Affine(float scale, float shift) : scale(scale), shift(shift) {}
    __device__ __forceinline__ float operator()(float x) const { return __fmaf_rn(scale, x, shift); }
    torch::Tensor reference(torch::Tensor x) const { return x * scale + shift; }
};

struct Shape {
    int rows, columns;
    __host__ __device__ int size() const { return rows * columns; }
};

struct Cached {
    torch::Tensor tensor;
    std::vector<int64_t> sizes;
};

template <typename F>
__global__ void map(const float* x, float* y, Shape shape, F f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < shape.size()) y[i] = f(x[i]);
}

torch::Tensor forward(torch::Tensor x) {
    Cached cached{torch::empty_like(x), x.sizes().vec()};
    Shape shape{1, static_cast<int>(x.numel())};
    map<<<(shape.size() + 255) / 256, 256>>>(
        x.data_ptr<float>(), cached.tensor.data_ptr<float>(), shape, Affine(2.0f, 1.0f));
    return cached.tensor;
}
