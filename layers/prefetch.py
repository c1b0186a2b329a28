"""Batches made ahead of their use by threads. A batch is a function of its number, so the number is all the state."""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..engine import fork


class Prefetcher:
    """Calls make(0), make(1), ... on `workers` threads, `depth` batches ahead; next() gives them in order.

    An exception in make is raised by the next() whose batch it is. After that, or after an interrupt, next() tries the
    same batch again. A forked process makes its batches anew. delays_fork=False: forks need not wait for batches in the
    making.
    """

    def __init__(self, make: Callable[[int], Any], depth: int, workers: int = 1, start: int = 0, delays_fork: bool = True):
        self.make, self.depth, self.workers, self.delays_fork = make, max(depth, 1), workers, delays_fork
        self.pool: ThreadPoolExecutor | None = None
        self.generation = fork.generation        # of the process that the threads belong to
        self.waiting: dict[int, Future[Any]] = {}          # by the batch's number
        self.given = start                       # batches given out so far
        self.late = 0                            # how often next() had to wait

    def next(self) -> Any:
        if self.generation != fork.generation:
            self._leave_parent()
        if self.pool is None:                    # threads start with the first batch: building a net needs none
            self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="brew-data")
        self._ask(self.given)
        future = self.waiting[self.given]
        self.late += not future.done()
        try:
            batch = future.result()
        except BaseException:
            self.seek(self.given)
            raise
        del self.waiting[self.given]
        self.given += 1
        self._ask(self.given)
        return batch

    def _ask(self, first: int) -> None:
        """Have `depth` batches made, from number `first` on. An interrupt at any point leaves each number with its own
        batch."""
        for number in range(first, first + self.depth):
            if number not in self.waiting:
                self.waiting[number] = self.pool.submit(self._work, number)      # type: ignore[union-attr]

    def _work(self, batch: int) -> Any:
        if not self.delays_fork:
            return self.make(batch)
        with fork.undisturbed():
            return self.make(batch)

    def seek(self, batch: int) -> None:
        """Go on with this batch number."""
        if self.generation != fork.generation:
            self._leave_parent()
        waiting, self.waiting, self.given = self.waiting, {}, batch
        for future in waiting.values():
            future.cancel()
        for future in waiting.values():
            if not future.cancelled():
                future.exception()               # a running one may still use the reader

    def _leave_parent(self) -> None:
        """In a forked process: forget the parent's threads, and what they were making."""
        self.pool, self.waiting, self.generation = None, {}, fork.generation

    def close(self) -> None:
        """Stop the threads. The next next() starts them anew."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = None
            self.waiting.clear()


class BatchLayerState:
    """What data layers have in common: `batches` counts those given out, and setting it goes there."""

    prefetcher: Prefetcher
    counter = "batches"

    @property
    def batches(self) -> int:
        return self.prefetcher.given

    @batches.setter
    def batches(self, n: int) -> None:
        self.prefetcher.seek(n)
