"""Tensors in one line each, and JSON."""

from kerneljudge.contract import (
    create_arange_spec,
    create_full_spec,
    create_ones_spec,
    create_randn_spec,
    create_tensor_spec,
    create_uniform_spec,
    create_zeros_spec,
)
from kerneljudge.schema import load_from_file, save_to_file, to_json

__all__ = [
    "create_arange_spec",
    "create_full_spec",
    "create_ones_spec",
    "create_randn_spec",
    "create_tensor_spec",
    "create_uniform_spec",
    "create_zeros_spec",
    "load_from_file",
    "save_to_file",
    "to_json",
]
