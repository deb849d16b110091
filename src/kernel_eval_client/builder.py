"""The fluent builder of contracts."""

from kerneljudge.contract import IOContractBuilder

__all__ = ["IOContractBuilder"]
