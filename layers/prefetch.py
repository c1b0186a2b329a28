"""Batches made ahead of their use: drawn by a sampler on the training thread, read and decoded by threads."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from ..engine import fork
from ..engine.errors import DataError
from ..proto import brew_pb2 as pb
from .samplers import Sampler, Sharded

UNDOABLE = 64                # draws that are kept where nobody says (mark) how far back an iteration may be undone


class Prefetcher:
    """Batches 0, 1, ... in order: what sampler.draw(number) says, made by make(number, draw) on `workers` threads,
    `depth` batches ahead.

    An exception in make is raised by the next() whose batch it is. After that, or after an interrupt, next() tries the
    same batch again. A forked process makes its batches anew. delays_fork=False: forks need not wait for batches in the
    making.

    A sampler with a state draws each batch once: its draws are kept until their batch is used and the iteration can no
    longer be undone. What it is to observe waits here, and is told right before the first draw that may depend on it;
    so going back needs no state of the sampler's from before.
    """

    def __init__(self, sampler: Sampler, make: Callable[[int, Any], Any], depth: int, workers: int = 1,
                 delays_fork: bool = True):
        self.sampler, self.make = sampler, make
        self.depth, self.workers, self.delays_fork = max(depth, 1), workers, delays_fork
        # whether draws depend on more than their numbers
        self.keeps_state = sampler.lag is not None or sampler.stream or sampler.state() is not None
        self.pool: ThreadPoolExecutor | None = None
        self.generation = fork.generation        # of the process that the threads belong to
        self.waiting: dict[int, Future[Any]] = {}          # by the batch's number
        self.given = 0                           # batches given out so far
        self.late = 0                            # how often next() had to wait
        self.drawn: dict[int, Any] = {}          # what was drawn, of a sampler with a state
        self.coming = 0                          # the number of its next draw
        self.marked: int | None = None           # nobody goes back to before this batch
        self.observed: dict[int, dict[str, np.ndarray]] = {}         # what the sampler was not told yet
        self.told = 0                            # batches whose observations it was told

    def next(self) -> Any:
        if self.generation != fork.generation:
            self._leave_parent()
        if self.pool is None:                    # threads start with the first batch: building a net needs none
            self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="brew-data")
        self._ask(self.given)
        if self.given not in self.waiting:
            lag = self.sampler.lag or 0
            raise DataError(f"batch {self.given} depends on what became of batch {self.given - lag}, which was not seen: "
                            "run the whole net forward for each batch")
        future = self.waiting[self.given]
        self.late += not future.done()
        try:
            batch = future.result()
        except BaseException:
            self.seek(self.given)
            raise
        del self.waiting[self.given]
        self.given += 1
        oldest = self.given - UNDOABLE if self.marked is None else self.marked
        for number in [number for number in self.drawn if number < oldest]:
            del self.drawn[number]
        with suppress(Exception):                # of a draw ahead: the next next() draws again, and this batch is not lost
            self._ask(self.given)
        return batch

    def _ask(self, first: int) -> None:
        """Have `depth` batches made, from number `first` on, as far as they may be drawn yet. An interrupt at any point
        leaves each number with its own batch."""
        for number in range(first, first + self.depth):
            if number not in self.waiting:
                if not self._may_draw(number):
                    return
                self.waiting[number] = self.pool.submit(self._work, number, self._draw(number))      # type: ignore[union-attr]

    def _may_draw(self, number: int) -> bool:
        lag = self.sampler.lag
        return lag is None or number in self.drawn or number - lag < self.told + len(self.observed)

    def _draw(self, number: int) -> Any:
        """What batch `number` is made of."""
        if number in self.drawn:
            return self.drawn[number]
        if not self.keeps_state:
            return self.sampler.draw(number)
        while self.sampler.lag is not None and self.told <= number - self.sampler.lag:
            self.sampler.observe(self.told, self.observed.pop(self.told))
            self.told += 1
        self.drawn[number] = self.sampler.draw(number)
        self.coming = number + 1
        return self.drawn[number]

    def observe(self, results: Mapping[str, np.ndarray]) -> None:
        """What the net made of the batch that was given out last."""
        number = self.given - 1
        # else seen before: an iteration
        if self.sampler.lag is not None and number == self.told + len(self.observed):
            # that is repeated has the same
            self.observed[number] = dict(results)

    def mark(self) -> None:
        """From here on, nobody goes back to before the present batch."""
        self.marked = self.given

    def _work(self, batch: int, draw: Any) -> Any:
        place = self.sampler.place(batch)
        if not self.delays_fork:
            return self.make(place, draw)
        with fork.undisturbed():
            return self.make(place, draw)

    def seek(self, batch: int) -> None:
        """Go on with this batch number. Raises DataError for one that a sampler with a state cannot go to."""
        if self.generation != fork.generation:
            self._leave_parent()
        if self.keeps_state and batch not in self.drawn and batch != self.coming:
            raise DataError(f"its sampler is at batch {self.coming} and cannot go to batch {batch}: restore a snapshot")
        waiting, self.waiting, self.given = self.waiting, {}, batch
        self.observed = {number: results for number, results in self.observed.items() if number < batch}
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

    # ------------------------------------------------------------------------------------------------- for snapshots

    def snapshot_state(self) -> Any:
        """The sampler's state, the batches that were drawn and not used, and what it was not told yet."""
        return {"sampler": self.sampler.state(), "coming": self.coming, "given": self.given, "told": self.told,
                "drawn": {number: draw for number, draw in self.drawn.items() if number >= self.given},
                "observed": {number: dict(results) for number, results in self.observed.items()}}

    def restore_state(self, state: Any) -> None:
        """Go on exactly from there."""
        self.drawn = dict(state["drawn"])
        self.coming, self.told = state["coming"], state["told"]
        self.observed = {number: dict(results) for number, results in state["observed"].items()}
        self.sampler.restore(state["sampler"])
        self.seek(state["given"])
        self.marked = self.given


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

    @property
    def stream(self) -> bool:
        """Whether its items can be read only once."""
        return self.prefetcher.sampler.stream

    def shard(self, sampler: Sampler) -> Sampler:
        """The part of a sampler that this layer reads: in TRAIN, that of the context's rank."""
        context, phase = self.context, self.phase                    # type: ignore[attr-defined]
        return sampler if context.ranks == 1 or phase != pb.TRAIN else Sharded(sampler, context.rank, context.ranks)

    def keeper(self) -> Any:
        return self.prefetcher if self.prefetcher.keeps_state else None

    def observe(self, results: Mapping[str, np.ndarray]) -> None:
        self.prefetcher.observe(results)

    def mark(self) -> None:
        self.prefetcher.mark()
