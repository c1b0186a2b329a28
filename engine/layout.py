"""How an array lies in memory: plain row-major, or with the channels (or a block of them) innermost."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..kernels import cpu

PLAIN = None           # the layout of numpy and of files; stands where a Layout could


@dataclass(frozen=True, eq=False)
class Layout:
    """Channels in lanes: (outer, blocks, spatial, lanes), as the kernels' channel grid. `channels` fill the first lanes.

    Made by `laid_out`, which gives the same object for the same grid: layouts are compared, and looked up, by identity.
    """

    grid: tuple[int, int, int, int, int]

    @property
    def lanes(self) -> int:
        return self.grid[3]

    @property
    def size(self) -> int:
        """Floats in memory, padding lanes included."""
        return prod(self.grid[:4])

    @property
    def padded(self) -> bool:
        """Whether the last block has lanes that hold no channel. They are zero, and every writer keeps them so."""
        return self.grid[1] * self.lanes != self.grid[4]

    def __str__(self) -> str:
        return "channels last" if self.grid[1] == 1 and self.lanes == self.grid[4] else f"blocks of {self.lanes}"

    def clear_padding(self, array: np.ndarray) -> None:
        """Set the lanes that hold no channel to zero."""
        outer, blocks, spatial, lanes, channels = self.grid
        if self.padded:
            array.reshape(outer, blocks, spatial, lanes)[:, -1, :, channels - (blocks - 1) * lanes:] = 0

    def pack(self, plain: np.ndarray, out: np.ndarray) -> None:
        cpu.to_lanes(plain, out, self.grid)

    def unpack(self, packed: np.ndarray, plain: np.ndarray) -> None:
        cpu.from_lanes(packed, plain, self.grid)

    def like(self, shape: tuple[int, ...]) -> Layout:
        """The layout of the same kind for an array of another shape."""
        return laid_out(shape, 0 if self.grid[1] == 1 and self.lanes == self.grid[4] else self.lanes)


def laid_out(shape: tuple[int, ...], lanes: int) -> Layout:
    """The layout of an (N, C, ...) array with blocks of `lanes` channels; 0: all channels in one block (channels last)."""
    channels = shape[1]
    lanes = lanes or channels
    grid = (shape[0], -(-channels // lanes), prod(shape[2:]), lanes, channels)
    return _layouts.get(grid) or _layouts.setdefault(grid, Layout(grid))       # one for all threads


_layouts: dict[tuple[int, ...], Layout] = {}


def grid_of(layout: Any, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """(outer, blocks, spatial, lanes, channels) of an (N, C, ...) array in `layout`, for the kernels."""
    return layout.grid if layout is not PLAIN else (shape[0], shape[1] if len(shape) > 1 else 1, prod(shape[2:]), 1,
                                                    shape[1] if len(shape) > 1 else 1)
