"""Arrays that blobs take while they hold something, and give back for others."""
from __future__ import annotations

from bisect import bisect_left, insort
from threading import Lock

import numpy as np

from .device import Cpu


class Pool:
    """Free arrays by size. A request gets the smallest that is large enough; if none is, those that are free make room for a
    new one. So the pool grows to what is held at one time, and after the first run nothing is allocated any more.
    """

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []
        self.lock = Lock()                   # nets of several threads take from the same pool

    @property
    def nbytes(self) -> int:
        """Bytes that nobody holds at present."""
        return sum(array.nbytes for array in self.free)

    def take(self, size: int) -> np.ndarray:
        """An array of at least `size` floats. What it holds is undefined."""
        with self.lock:
            at = bisect_left(self.free, size, key=len)
            if at < len(self.free):
                return self.free.pop(at)
            room = size
            while self.free and room > 0:
                room -= len(self.free.pop())
        return Cpu.empty(size)

    def give(self, array: np.ndarray) -> None:
        with self.lock:
            insort(self.free, array, key=len)

    def clear(self) -> None:
        """Let go of what nobody holds."""
        with self.lock:
            self.free.clear()
