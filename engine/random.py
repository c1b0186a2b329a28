"""Random numbers: every stream is a function of (seed, who draws, how often before), the same on every device."""
from __future__ import annotations

from functools import lru_cache
from math import prod
from zlib import crc32

import numpy as np

from ..kernels import cpu


def stream(who: str, count: int = 0) -> int:
    """The 64-bit stream of `who` (a layer's name and purpose) at its `count`-th draw."""
    return crc32(who.encode()) << 32 | count & 0xFFFFFFFF


class Random:
    """Draws of one owner, one after the other. `count` is all of its state."""

    def __init__(self, seed: int, who: str, count: int = 0):
        self.seed, self.who, self.count = seed, who, count

    def next_stream(self) -> int:
        self.count += 1
        return stream(self.who, self.count)

    def uniform(self, shape: tuple[int, ...], low: float = 0, high: float = 1) -> np.ndarray:
        """float32 in (low, high]."""
        x = np.empty(prod(shape), np.float32)
        cpu.random_uniform(x, self.seed, self.next_stream(), low, high)
        return x.reshape(shape)

    def normal(self, shape: tuple[int, ...], mean: float = 0, std: float = 1) -> np.ndarray:
        """float32 from N(mean, std^2)."""
        x = np.empty(prod(shape), np.float32)
        cpu.random_normal(x, self.seed, self.next_stream(), mean, std)
        return x.reshape(shape)


def words(seed: int, who: str, count: int, n: int) -> np.ndarray:
    """n random uint32 of the `count`-th draw of `who`."""
    x = np.empty(n, np.uint32)
    cpu.random_words(x, seed, stream(who, count))
    return x


@lru_cache(maxsize=8)                        # every batch of an epoch asks for its order
def permutation(seed: int, who: str, count: int, n: int) -> np.ndarray:
    """The `count`-th random order of 0..n-1 of `who`."""
    pairs = words(seed, who, count, 2 * n).astype(np.uint64)
    order = np.argsort(pairs[::2] << np.uint64(32) | pairs[1::2], kind="stable")
    order.flags.writeable = False
    return order
