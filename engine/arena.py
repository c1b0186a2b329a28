"""All learnable parameters of a net side by side, so that an update is one pass over memory and a norm one sum."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .context import active
from .blob import Blob
from .layout import PLAIN
from .memory import Memory
from .store import GPU
from .sharing import Parameter


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


class Arena:
    """`data` and `diff` are flat arrays; the blobs' values and gradients are parts of them, in the engine's layouts.

    What does not learn (a rate of 0) lies at the end of `data`, and has no place in `diff` and in histories, which are
    shorter; the statistics that forward changes come last. Slots begin on cache lines. What lies between them and in
    the padding of layouts is zero, and stays zero. `slots` are in the parameters' order; in memory those that learn
    alike are neighbours, and make one of `spans`.
    """

    def __init__(self, parameters: list[Parameter]):
        alike: dict[tuple[float, float, bool], list[int]] = {}
        for i, p in enumerate(parameters):
            alike.setdefault((p.lr_mult, p.decay_mult, p.measured and not p.lr_mult), []).append(i)
        slots: dict[int, Slot] = {}
        self.spans: list[Span] = []
        start = self.learned = 0                   # floats so far; and of what learns
        self.unmeasured = 0                        # floats before the statistics
        self.measured: list[Slot] = []             # the statistics
        for (lr, decay, measured), members in sorted(alike.items(), key=lambda item: (item[0][0] == 0, item[0][2])):
            first = start
            for i in members:
                blob = parameters[i].blob
                layout = GPU if blob.value.store.gpu else blob.value.layout
                size = blob.value.store.size if layout in (PLAIN, GPU) else layout.size
                slots[i] = Slot(start, size, lr, decay, blob, layout)
                start += -(-size // 16) * 16
            self.spans.append(Span(first, start - first, lr, decay))
            self.learned = start if lr else self.learned
            self.unmeasured = self.unmeasured if measured else start
            self.measured += [slots[i] for i in members] if measured else []
        self.slots = [slots[i] for i in range(len(parameters))]
        self.moving = [slot for slot in self.measured if slot.layout is not PLAIN]      # whose newest copy may be elsewhere
        self.learning = [slot for slot in self.slots if slot.lr_mult]
        self.data, self.diff = active().device.empty(start), self.zeros()
        for slot in self.slots:
            slot.blob.value.store.move_to(slot.layout, self.part(self.data, slot))
        for slot in self.learning:
            slot.blob.gradient.store.move_to(slot.layout, self.part(self.diff, slot))

    def zeros(self) -> Any:
        """A flat array like `diff`, as solvers need for their histories."""
        return active().device.empty(self.learned)

    def part(self, array: Any, slot: Span) -> Any:
        return array[slot.start:slot.start + slot.size]

    def open(self, which: str, frozen: bool = True) -> Any:
        """The whole of "data" or "diff" for an update: brings every slot up to date and makes it the only copy. Without
        `frozen`, data that does not learn is left as it is."""
        for slot in self.slots if frozen and which == "data" else self.learning:
            store = (slot.blob.value if which == "data" else slot.blob.gradient).store
            store.read(slot.layout)
            store.write(slot.layout)
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
        memory = Memory(slot.blob.shape)
        if slot.start >= len(array):
            return memory
        memory.store.put(slot.layout, self.part(array, slot))
        return memory
