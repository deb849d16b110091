// cpp: torch::Tensor forward(torch::Tensor x);
// functions: forward
// expect: fast
__global__ void twice_plus_one(const float* x, float* y, int rows, int columns) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < rows && column < columns) {
        y[row * columns + column] = 2.0f * x[row * columns + column] + 1.0f;
    }
}

torch::Tensor forward(torch::Tensor x) {
    auto input = x.reshape({x.size(0), -1}).contiguous();
    auto y = torch::empty_like(input);
    dim3 block(16, 16);
    dim3 grid((input.size(1) + block.x - 1) / block.x, (input.size(0) + block.y - 1) / block.y);
    twice_plus_one<<<grid, block>>>(input.data_ptr<float>(), y.data_ptr<float>(), input.size(0), input.size(1));
    return y.reshape(x.sizes());
}
