"""Batches made ahead of their use by threads. A batch is a function of its number, so the number is all the state."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetcher:
    """Calls make(0), make(1), ... on `workers` threads, `depth` batches ahead; next() gives them in order.

    An exception in make is raised by the next() whose batch it is.
    """

    def __init__(self, make: Callable[[int], Any], depth: int, workers: int = 1, start: int = 0):
        self.make, self.depth, self.workers = make, max(depth, 1), workers
        self.pool: ThreadPoolExecutor | None = None
        self.waiting: deque[Future[Any]] = deque()
        self.given = start                       # batches given out so far
        self.late = 0                            # how often next() had to wait

    def next(self) -> Any:
        if self.pool is None:                    # threads start with the first batch: building a net needs none
            self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="brew-data")
        while len(self.waiting) < self.depth:
            self.waiting.append(self.pool.submit(self.make, self.given + len(self.waiting)))
        future = self.waiting.popleft()
        self.late += not future.done()
        batch = future.result()
        self.given += 1
        self.waiting.append(self.pool.submit(self.make, self.given + len(self.waiting)))
        return batch

    def seek(self, batch: int) -> None:
        """Go on with this batch number."""
        for future in self.waiting:
            future.cancel()
        for future in self.waiting:
            if not future.cancelled():
                future.exception()               # a running one may still use the reader
        self.waiting.clear()
        self.given = batch

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
