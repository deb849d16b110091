import torch
import torch.nn as nn


def standalone_kernel(x, y):
    """Standalone function that can be targeted"""
    return torch.matmul(x, y) + torch.relu(x)


class CustomModel(nn.Module):
    """Class with methods that can be targeted"""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 128)

    def forward(self, x):
        return self.linear(x)

    def custom_method(self, x, y):
        return x + y
