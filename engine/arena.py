"""All learnable parameters of a net side by side, so that an update is one pass over memory and a norm one sum."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .context import active
from .blob import Blob
from .layout import PLAIN
from .memory import Memory
from .store import GPU
from .sharing import Parameter


# floats, 25 MiB: what PyTorch's data-parallel exchange sends at a time (Li et al., VLDB 2020)
BUCKET = 25 * 2**18


@dataclass(frozen=True)
class Span:
    """A part of the arena, in floats, all of which learns at the same rate and decays alike."""

    start: int
    size: int
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class Slot(Span):
    """Where one parameter lies, and in which layout."""

    blob: Blob
    layout: Any


@dataclass(frozen=True)
class Bucket:
    """A part of the gradients, in floats, that is complete when backward has run layer number `last`: what an exchange
    between devices can send while backward goes on."""

    start: int
    size: int
    last: int
    slots: Sequence[Slot]


def _zone(p: Parameter) -> int:
    """In which part of the arena a parameter lies: of dense gradients, of row-sparse ones, still, or statistics."""
    return int(p.sparse) if p.lr_mult else 2 + p.measured


def _rates(p: Parameter) -> tuple[float, float]:
    return p.lr_mult, p.decay_mult


class Arena:
    """`data` and `diff` are flat arrays; the blobs' values and gradients are parts of them, in the engine's layouts.

    First come the parameters with dense gradients, bucket by bucket; then those with row-sparse ones, which have no
    place in `diff`; then, at the end of `data` only, what does not learn (a rate of 0), and last the statistics that
    forward changes. Histories end where learning does. Slots begin on cache lines. What lies between them and in the
    padding of layouts is zero, and stays zero. `slots` are in the parameters' order; in memory those of a bucket that
    learn alike are neighbours, and make one of `spans`.
    """

    def __init__(self, parameters: list[Parameter], last_use: Sequence[int] = ()):
        """`last_use`: for each parameter the number of the layer whose backward pass is the last to add to its
        gradient."""
        self.parameters = parameters
        found: dict[int, Slot] = {}
        self.spans: list[Span] = []                # of dense parameters that learn
        self.buckets: list[Bucket] = []
        dense, sparse, still, statistics = ([i for i, p in enumerate(parameters) if _zone(p) == zone]
                                            for zone in range(4))
        start = 0
        for members, last in self._bucketed(dense, last_use):
            first = start
            for group in self._alike(members):
                begin, start = start, self._place(group, start, found)
                self.spans.append(Span(begin, start - begin, *_rates(parameters[group[0]])))
            self.buckets.append(Bucket(first, start - first, last, [found[i] for i in members]))
        diffs = start                              # floats of dense gradients
        start = self.learned = self._place(sparse, start, found)          # floats of all that learns
        start = self.unmeasured = self._place(still, start, found)        # floats before the statistics
        start = self._place(statistics, start, found)
        self.slots = [found[i] for i in range(len(parameters))]
        self.learning, self.sparse, self.measured = ([found[i] for i in members]
                                                     for members in (dense, sparse, statistics))
        self.moving = [slot for slot in self.measured if slot.layout is not PLAIN]      # whose newest copy may be elsewhere
        self.data, self.diff = active().device.empty(start), active().device.empty(diffs)
        for slot in self.slots:
            slot.blob.value.store.move_to(slot.layout, self.part(self.data, slot))
        for slot in self.learning:
            slot.blob.gradient.store.move_to(slot.layout, self.part(self.diff, slot))

    def _bucketed(self, members: list[int], last_use: Sequence[int]) -> list[tuple[list[int], int]]:
        """Parameters in buckets of at least BUCKET floats, in the order in which backward is done with them, each
        bucket with the layer after whose backward pass it is complete. A net of one bucket keeps the parameters'
        order."""
        ready = sorted(members, key=lambda i: -last_use[i]) if last_use else members
        buckets: list[tuple[list[int], int]] = []
        size = BUCKET
        for i in ready:
            if size >= BUCKET:
                buckets.append(([], 0))
                size = 0
            buckets[-1][0].append(i)
            buckets[-1] = buckets[-1][0], last_use[i] if last_use else 0
            size += self.parameters[i].blob.count
        return [(sorted(inside), last) for inside, last in buckets]

    def _alike(self, members: list[int]) -> list[list[int]]:
        """The members in groups that learn at the same rate and decay alike."""
        groups: dict[tuple[float, float], list[int]] = {}
        for i in members:
            groups.setdefault(_rates(self.parameters[i]), []).append(i)
        return list(groups.values())

    def _place(self, members: list[int], start: int, found: dict[int, Slot]) -> int:
        """Give parameters slots from `start` on; returns where the next begins."""
        for i in members:
            blob = self.parameters[i].blob
            layout = GPU if blob.value.store.gpu else blob.value.layout
            size = blob.value.store.size if layout in (PLAIN, GPU) else layout.size
            found[i] = Slot(start, size, *_rates(self.parameters[i]), blob, layout)
            start += -(-size // 16) * 16
        return start

    def zeros(self) -> Any:
        """A flat array for all that learns, as solvers need for their histories."""
        return active().device.empty(self.learned)

    def part(self, array: Any, slot: Span) -> Any:
        return array[slot.start:slot.start + slot.size]

    def bring(self, slot: Slot) -> None:
        """Bring a parameter's values up to date in `data`, to be changed there."""
        slot.blob.value.store.update(slot.layout)

    def bring_gradients(self, slots: Sequence[Slot]) -> None:
        """Bring the gradients of these parameters up to date in `diff`, to be changed there."""
        for slot in slots:
            slot.blob.gradient.store.update(slot.layout)

    def open(self, which: str, frozen: bool = True) -> Any:
        """The whole of "data" or "diff" for an update: brings every slot up to date and makes it the only copy. Without
        `frozen`, data that does not learn is left as it is."""
        slots = self.learning if which == "diff" else self.slots if frozen else (*self.learning, *self.sparse)
        for slot in slots:
            (slot.blob.value if which == "data" else slot.blob.gradient).store.update(slot.layout)
        return self.data if which == "data" else self.diff

    def statistics(self) -> Any:
        """A copy of what forward itself changes, for set_statistics."""
        for slot in self.moving:
            slot.blob.value.store.read(slot.layout)
        return self.data[self.unmeasured:].copy()

    def set_statistics(self, array: Any) -> None:
        """Bring back what statistics() gave."""
        for slot in self.measured:
            slot.blob.value.store.write(slot.layout)
        self.data[self.unmeasured:] = array

    def as_memory(self, array: Any, slot: Slot) -> Memory:
        """A slot of an array as a Memory with the parameter's shape, to be read or written in plain order. What has no place in
        the array is zero."""
        memory = type(slot.blob.value)(slot.blob.shape)
        if slot.start >= len(array):
            return memory
        memory.store.put(slot.layout, self.part(array, slot))
        return memory
