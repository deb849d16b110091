"""How a kernel is launched: grid, block and the options of Triton and CUDA."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt, field_validator

from kerneljudge.contract.base import ContractModel

__all__ = ["LaunchConfig", "LaunchDim"]

_Positive = Annotated[StrictInt, Field(ge=1)]

# Technical specifications per compute capability, CUDA C++ Programming Guide: the same for every
# capability from 5.0 on, except shared memory, whose largest (9.0 and 10.0) is taken.
_MAX_GRID = {"x": 2**31 - 1, "y": 65535, "z": 65535}
_MAX_BLOCK = {"x": 1024, "y": 1024, "z": 64}
_MAX_THREADS = 1024
_MAX_SHARED_MEMORY = 227 * 1024


class LaunchDim(ContractModel):
    """An extent in up to three dimensions."""

    x: _Positive
    """Along x."""
    y: _Positive = 1
    """Along y."""
    z: _Positive = 1
    """Along z."""

    @property
    def size(self) -> int:
        """The product of all three."""
        return self.x * self.y * self.z

    @property
    def xyz(self) -> tuple[int, int, int]:
        """All three, as launchers want them."""
        return self.x, self.y, self.z


class LaunchConfig(ContractModel):
    """Launch configuration."""

    grid: LaunchDim | None = None
    """Blocks (Triton: programs) along each dimension; required for `triton` and `cuda`."""
    block: LaunchDim | None = None
    """Threads of a block along each dimension (`cuda` only); 256 along x if unset."""
    num_warps: StrictInt | None = None
    """Warps a program (`triton` only): 1, 2, 4, 8, 16 or 32."""
    num_stages: _Positive | None = None
    """Stages of software pipelining (`triton` only)."""
    shared_memory: Annotated[StrictInt, Field(ge=0, le=_MAX_SHARED_MEMORY)] | None = None
    """Extension: bytes of dynamic shared memory a block (`cuda` only)."""

    @field_validator("grid")
    @classmethod
    def _grid_fits(cls, grid: LaunchDim | None) -> LaunchDim | None:
        if grid is not None:
            _check_extents(grid, _MAX_GRID)
        return grid

    @field_validator("block")
    @classmethod
    def _block_fits(cls, block: LaunchDim | None) -> LaunchDim | None:
        if block is not None:
            _check_extents(block, _MAX_BLOCK)
            if block.size > _MAX_THREADS:
                raise ValueError(
                    f"{block.x} x {block.y} x {block.z} is {block.size} threads: a block has at "
                    f"most {_MAX_THREADS}; use a smaller block and a larger grid"
                )
        return block

    @field_validator("num_warps")
    @classmethod
    def _power_of_two(cls, warps: int | None) -> int | None:
        if warps is not None and warps not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"is {warps}: it must be 1, 2, 4, 8, 16 or 32")
        return warps


def _check_extents(extents: LaunchDim, limits: dict[str, int]) -> None:
    for axis, limit in limits.items():
        if getattr(extents, axis) > limit:
            raise ValueError(
                f"{axis} is {getattr(extents, axis)}: CUDA allows at most {limit} along {axis}"
            )
