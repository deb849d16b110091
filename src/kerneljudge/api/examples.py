"""Requests that run, shown in the OpenAPI document.

Each is an example in OpenAPI's form: a summary, and the body as `value`.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BATCH_EXAMPLES", "COMPARE_EXAMPLES", "EVALUATE_EXAMPLES"]

_SIZE = 4096
_BLOCK = 256

_TORCH_REFERENCE = """\
import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x, y):
        return x + y


def get_inputs():
    return [torch.randn(4096), torch.randn(4096)]


def get_init_inputs():
    return []
"""

_TORCH_CANDIDATE = """\
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x, y):
        return torch.add(x, y)
"""

_TORCH_FUNCTION = """\
def add(x, y):
    return x + y
"""

_TRITON = """\
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, z_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + y, mask=mask)
"""

_CUDA = """\
__global__ void add(const float* x, const float* y, float* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
"""

_MULTI_KERNEL = (
    _TRITON.replace("import triton\n", "import torch\nimport triton\n", 1)
    + """\


def run(x, y):
    z = torch.empty_like(x)
    n = x.numel()
    add_kernel[(triton.cdiv(n, 256),)](x, y, z, n, BLOCK_SIZE=256)
    return z * 2
"""
)

_LEGACY_CANDIDATE = '''\
import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

cuda_source = """
#include <torch/extension.h>

__global__ void add_kernel(const float* x, const float* y, float* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}

torch::Tensor add(torch::Tensor x, torch::Tensor y) {
    auto z = torch::empty_like(x);
    int n = x.numel();
    add_kernel<<<(n + 255) / 256, 256>>>(
        x.data_ptr<float>(), y.data_ptr<float>(), z.data_ptr<float>(), n);
    return z;
}
"""

cpp_source = "torch::Tensor add(torch::Tensor x, torch::Tensor y);"

add_module = load_inline(
    name="add_module", cpp_sources=cpp_source, cuda_sources=cuda_source, functions=["add"]
)


class ModelNew(nn.Module):
    def forward(self, x, y):
        return add_module.add(x, y)
'''


def _input(name: str, seed: int) -> dict[str, Any]:
    init = {"kind": "randn", "seed": seed}
    spec = {"shape": [_SIZE], "dtype": "float32", "init": init}
    return {"name": name, "type": "tensor", "role": "input", "tensor_spec": spec}


_INPUTS = [_input("x", 42), _input("y", 43)]
_LAUNCHED = [
    *_INPUTS,
    {
        "name": "z",
        "type": "tensor",
        "role": "output",
        "tensor_spec": {"shape": [_SIZE], "dtype": "float32"},
    },
    {"name": "n", "type": "int", "value": _SIZE},
]

_TRITON_KERNEL = {
    "source_code": _TRITON,
    "kernel_type": "triton",
    "metadata": {"kernel_name": "add_kernel", "algorithm": "elementwise"},
    "io": {
        "args": [
            *_LAUNCHED,
            {"name": "BLOCK_SIZE", "type": "int", "value": _BLOCK, "is_meta": True},
        ],
        "launch": {"grid": {"x": _SIZE // _BLOCK}, "num_warps": 4},
    },
}

_CUDA_KERNEL = {
    "source_code": _CUDA,
    "kernel_type": "cuda",
    "io": {
        "args": _LAUNCHED,
        "launch": {"grid": {"x": _SIZE // _BLOCK}, "block": {"x": _BLOCK}},
    },
}

_TORCH_KERNEL = {"source_code": _TORCH_REFERENCE, "kernel_type": "torch"}

EVALUATE_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "torch": {
        "summary": "A PyTorch model that makes its own inputs (the KernelBench pattern)",
        "value": {"kernel": _TORCH_KERNEL, "num_trials": 20},
    },
    "torch_function": {
        "summary": "A PyTorch function on inputs that a contract describes",
        "value": {
            "kernel": {
                "source_code": _TORCH_FUNCTION,
                "kernel_type": "torch",
                "metadata": {"function_name": "add"},
                "io": {"args": _INPUTS},
            },
            "num_trials": 20,
        },
    },
    "triton": {
        "summary": "A Triton kernel",
        "value": {"kernel": _TRITON_KERNEL, "num_trials": 20},
    },
    "cuda": {
        "summary": "A CUDA kernel",
        "value": {"kernel": _CUDA_KERNEL, "num_trials": 20},
    },
    "multi_kernel": {
        "summary": "A script with an entry point",
        "value": {
            "kernel": {
                "source_code": _MULTI_KERNEL,
                "kernel_type": "multi_kernel",
                "metadata": {"entry_point": "run", "description": "Add, then double"},
                "io": {"args": _INPUTS},
            },
            "num_trials": 20,
        },
    },
}
"""Bodies of POST /evaluate."""

COMPARE_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "torch": {
        "summary": "Two PyTorch models",
        "value": {
            "ref_kernel": _TORCH_KERNEL,
            "custom_kernel": {"source_code": _TORCH_CANDIDATE, "kernel_type": "torch"},
            "num_trials": 20,
        },
    },
    "triton": {
        "summary": "A Triton kernel against a PyTorch function, with tolerances of its own",
        "value": {
            "ref_kernel": {
                "source_code": _TORCH_FUNCTION,
                "kernel_type": "torch",
                "metadata": {"function_name": "add"},
                "io": {"args": _INPUTS},
            },
            "custom_kernel": _TRITON_KERNEL,
            "num_trials": 20,
            "atol": 1e-5,
            "rtol": 1e-5,
            "seed": 7,
        },
    },
    "legacy": {
        "summary": "The older body: a PyTorch model against one with embedded CUDA",
        "value": {
            "ref_code": _TORCH_REFERENCE,
            "custom_code": _LEGACY_CANDIDATE,
            "num_trials": 20,
            "timeout": 120,
        },
    },
}
"""Bodies of POST /compare."""

BATCH_EXAMPLES: Final[dict[str, Any]] = {
    "mixed": {
        "summary": "An evaluation and a comparison",
        "value": {
            "requests": [
                EVALUATE_EXAMPLES["torch"]["value"],
                COMPARE_EXAMPLES["triton"]["value"],
            ]
        },
    },
}
"""Bodies of POST /batch."""
