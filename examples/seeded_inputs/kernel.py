import torch


def project(input, weights):
    return torch.matmul(input, weights)
