"""Convolutions of 3 x 3 by Winograd's minimal filtering: 16 multiplications where the definition takes 36."""
from __future__ import annotations

from typing import Any

from ..engine.device import Cpu
from ..engine.pool import Pool
from ..kernels import cpu

LANES = int(cpu.winograd_lanes)
FEW_TILES = 48            # up to here, reading the weights, which grow to 16/9, takes longer than what is saved (measured)
FEW_CHANNELS = 64         # in and out together, of a group: below, transforming tiles takes longer


class Winograd:
    """F(2 x 2, 3 x 3) of Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1), for blobs in
    blocks of LANES channels and weights in blocks of both. The results are as exact as those of the definition: transforms
    are sums, and halves in the weights. Tiles at odd ends are filled up, so that their share must stay small."""

    def __init__(self, g: Any, pool: Pool):
        (n, c, *size), (_, k, *out) = g.bottom, g.top
        self.pool = pool
        self.groups, self.outputs, self.channels = g.groups, k // g.groups, c // g.groups
        self.size = 16 * self.groups * self.outputs * self.channels
        self.shape = [n, self.channels, *size, self.outputs, *out, *g.pad, g.groups]
        self.back = [n, self.outputs, *out, self.channels, *size, *(2 - p for p in g.pad), g.groups]
        self.kept: Any = None
        self.kept_from: tuple[Any, int] = (None, 0)

    @staticmethod
    def suits(g: Any) -> bool:
        """Whether this convolution is one that it can do, and does faster than the direct kernels (docs/benchmarks.md)."""
        if (g.kernel, g.stride, g.dilation) != ((3, 3), (1, 1), (1, 1)) or max(g.pad) > 2 or any(c // g.groups % LANES for c in (g.bottom[1], g.top[1])):
            return False
        n, k, rows, columns = g.top
        per_image = -(-rows // 2) * -(-columns // 2)
        return bool(n * per_image >= FEW_TILES and 16 * per_image <= 0.7 * 9 * rows * columns and (g.bottom[1] + k) // g.groups >= FEW_CHANNELS)

    def forward(self, x: Any, w: Any, version: int, keep: bool, bias: Any, addend: Any, relu: float | None, y: Any) -> None:
        """y from x, w and what comes after. With `keep`, transformed weights stay until another w or `version` comes."""
        if keep:
            if self.kept_from[0] is not w or self.kept_from[1] != version:
                self.kept, self.kept_from = Cpu.empty(self.size), (w, version)
                cpu.winograd_weights(w, self.kept, self.groups, self.outputs, self.channels, False)
            cpu.winograd_forward(x, self.kept, bias, addend, relu, y, self.shape)
        else:
            self.kept, self.kept_from = None, (None, 0)
            self._run(x, w, False, bias, addend, relu, y, self.shape)

    def backward_data(self, dy: Any, w: Any, dx: Any) -> None:
        self._run(dy, w, True, None, None, None, dx, self.back)

    def _run(self, x: Any, w: Any, turned: bool, bias: Any, addend: Any, relu: float | None, y: Any, shape: list[int]) -> None:
        u = self.pool.take(self.size)
        cpu.winograd_weights(w, u, self.groups, self.outputs, self.channels, turned)
        cpu.winograd_forward(x, u, bias, addend, relu, y, shape)
        self.pool.give(u)

    def backward_weights(self, x: Any, dy: Any, dw: Any, db: Any, beta: float) -> None:
        memory = self.pool.take(cpu.winograd_gradient_memory(self.shape))
        cpu.winograd_backward_weights(x, dy, memory, dw, db, beta, self.shape)
        self.pool.give(memory)
