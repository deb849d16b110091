import torch
import torch.nn as nn


class Model(nn.Module):
    """A layer and an activation, in the pattern of KernelBench."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.register_buffer("scale", torch.full((out_features,), 0.5))

    def forward(self, x):
        return torch.relu(self.linear(x)) * self.scale


batch_size = 32
in_features = 128
out_features = 64


def get_inputs():
    return [torch.randn(batch_size, in_features)]


def get_init_inputs():
    return [in_features, out_features]
