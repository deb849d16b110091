"""The kernel types: how each is read, what must be built for it, and how it is loaded.

Importing the package imports no torch, since `read` and `builds` run where there is none; `load`
runs in a runner. A new kernel type is a module here and a line in `LANGUAGES`.
"""

from __future__ import annotations

from kerneljudge.languages.base import (
    Language,
    LoadContext,
    LoadedKernel,
    LoadError,
    Refusal,
    Unsupported,
)
from kerneljudge.languages.cuda import CudaLanguage
from kerneljudge.languages.multi_kernel import MultiKernelLanguage
from kerneljudge.languages.torch import TorchLanguage
from kerneljudge.languages.torch_cuda import TorchCudaLanguage
from kerneljudge.languages.triton import TritonLanguage
from kerneljudge.schema import KernelType

__all__ = [
    "LANGUAGES",
    "Language",
    "LoadContext",
    "LoadError",
    "LoadedKernel",
    "Refusal",
    "Unsupported",
]

LANGUAGES: dict[KernelType, Language] = {
    KernelType.TORCH: TorchLanguage(),
    KernelType.TORCH_CUDA: TorchCudaLanguage(),
    KernelType.TRITON: TritonLanguage(),
    KernelType.CUDA: CudaLanguage(),
    KernelType.MULTI_KERNEL: MultiKernelLanguage(),
}
"""Every kernel type."""
