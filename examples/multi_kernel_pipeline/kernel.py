import cupy as cp
import torch
import triton
import triton.language as tl


# Triton kernel for preprocessing
@triton.jit
def preprocess_kernel(input_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pid = tl.program_id(axis=0)
    block_start = pid * BLOCK_SIZE
    offsets = block_start + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    x = tl.load(input_ptr + offsets, mask=mask)
    result = x * 2.0 + 1.0
    tl.store(output_ptr + offsets, result, mask=mask)


# CUDA kernel for core computation
cuda_source = r"""
extern "C" __global__
void compute_kernel(const float* input, float* output, int n) {
    int idx = blockIdx.x * blockDim.x + threadIdx.x;
    if (idx < n) {
        output[idx] = sqrtf(input[idx]);
    }
}
"""
compute_kernel = cp.RawKernel(cuda_source, "compute_kernel")


def run(x):
    """Entry point: preprocess with Triton, compute with CUDA, postprocess with PyTorch"""
    n_elements = x.numel()

    # Stage 1: Triton preprocessing
    preprocessed = torch.empty_like(x)
    grid = lambda meta: (triton.cdiv(n_elements, meta["BLOCK_SIZE"]),)
    preprocess_kernel[grid](x, preprocessed, n_elements, BLOCK_SIZE=256)

    # Stage 2: CUDA computation
    computed = torch.empty_like(preprocessed)
    block_size = 256
    grid_size = (n_elements + block_size - 1) // block_size
    compute_kernel(
        (grid_size,), (block_size,), (cp.asarray(preprocessed), cp.asarray(computed), n_elements)
    )

    # Stage 3: PyTorch postprocessing
    result = computed + torch.mean(computed)

    return result
