"""A candidate in PyTorch."""

import torch
from torch import nn


class ModelNew(nn.Module):
    """Adds two matrices into memory of its own."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The elementwise sum."""
        out = torch.empty_like(a)
        return torch.add(a, b, out=out)
