"""Samplers: which items a data layer's batches are made of. Reading and decoding them is the layer's work."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine.random import permutation


class Sampler:
    """Draws batches, one after the other, on the training thread: draw(0), draw(1), ... each once.

    lag      None: draws depend on their numbers alone. Else the sampler is told what became of its batches (observe), and
             draw i comes after the observations of batches 0 to i - lag, and before those of later ones: however fast
             batches are read. At most `lag` batches are drawn ahead.
    stream   its items arrive once: they cannot be read again, and are read for nothing but training.
    """

    lag: int | None = None
    stream = False

    def draw(self, number: int) -> Any:
        """What batch `number` is made of, as the layer's reader takes it; of values that a snapshot can hold (numbers,
        text, bytes, arrays, and lists, tuples and dicts of these) if the sampler has a state."""
        raise NotImplementedError

    def place(self, number: int) -> int:
        """The batch's number among those of all ranks: what random crops and mirrors are drawn by."""
        return number

    def observe(self, number: int, results: Mapping[str, np.ndarray]) -> None:
        """What the net made of batch `number`: the values of the blobs that the layer observes, by name."""

    def state(self) -> Any:
        """What further draws depend on, as values that a snapshot can hold; None if they depend on their numbers
        alone."""
        return None

    def restore(self, state: Any) -> None:
        """Go on from a state."""


class Sequential(Sampler):
    """Items in their order, again and again: batch i is items i n, i n + 1, ..., of `size`, as int64 (n)."""

    def __init__(self, size: int, batch_size: int, skip: Callable[[], int] = lambda: 0):
        self.size, self.batch_size, self.skip = size, batch_size, skip

    def places(self, number: int) -> np.ndarray:
        """The places of a batch in the endless sequence of all epochs, int64 (n)."""
        return self.skip() + np.arange(number * self.batch_size, (number + 1) * self.batch_size)

    def draw(self, number: int) -> np.ndarray:
        return self.places(number) % self.size


class Shuffled(Sequential):
    """Items in a new order in each epoch; batches go on across epochs. order(seed, epoch) gives an array of
    `size` items, by default a permutation of 0 to size - 1; `seed` is called for each draw, as a restored snapshot
    changes it."""

    def __init__(self, size: int, batch_size: int, seed: Callable[[], int], order: Callable[[int, int], np.ndarray],
                 skip: Callable[[], int] = lambda: 0):
        super().__init__(size, batch_size, skip)
        self.seed, self.order = seed, order
        self.orders: dict[tuple[int, int], np.ndarray] = {}          # of the last two epochs

    def _order(self, epoch: int) -> np.ndarray:
        key = self.seed(), epoch
        if key not in self.orders:
            while len(self.orders) > 1:
                del self.orders[next(iter(self.orders))]
            self.orders[key] = self.order(*key)
        return self.orders[key]

    def draw(self, number: int) -> np.ndarray:
        places = self.places(number)
        epochs = places // self.size
        parts = [self._order(int(e))[places[epochs == e] % self.size] for e in np.unique(epochs)]
        return np.concatenate(parts)


def shuffles(who: str, size: int) -> Callable[[int, int], np.ndarray]:
    """The orders of a layer's shuffle: permutations from a stream of random numbers called `who`."""
    return lambda seed, epoch: permutation(seed, who, epoch, size)


class Sharded(Sampler):
    """One of `ranks` parts of another sampler's batches, for data-parallel training: its batch i is number i ranks +
    rank there, so that all parts together read what one reader reads. Raises ValueError for one that observes."""

    def __init__(self, sampler: Sampler, rank: int, ranks: int):
        if not 0 <= rank < ranks:
            raise ValueError(f"a rank lies between 0 and {ranks - 1}, found {rank}")
        if sampler.lag is not None or sampler.state() is not None:
            raise ValueError("a sampler whose draws depend on what came before cannot be dealt out")
        self.sampler, self.rank, self.ranks = sampler, rank, ranks

    def draw(self, number: int) -> Any:
        return self.sampler.draw(self.place(number))

    def place(self, number: int) -> int:
        return number * self.ranks + self.rank
