"""All learnable parameters of a net side by side, so that an update is one pass over memory and a norm one sum."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import device
from .blob import Blob
from .layout import PLAIN
from .memory import GPU, Memory


@dataclass
class Slot:
    """Where a parameter lies in the arena, in floats, and in which layout."""

    blob: Blob
    start: int
    size: int
    layout: Any
    lr_mult: float = 1.0
    decay_mult: float = 1.0


class Arena:
    """`data` and `diff` are flat arrays; the blobs' values and gradients are parts of them, in the engine's layouts.

    Slots begin on cache lines. What lies between them and in the padding of layouts is zero, and stays zero.
    """

    def __init__(self, blobs: list[Blob]):
        self.slots: list[Slot] = []
        start = 0
        for blob in blobs:
            layout = GPU if device.current().name == "gpu" else blob.value.layout
            size = blob.value.store.size if layout in (PLAIN, GPU) else layout.size
            self.slots.append(Slot(blob, start, size, layout))
            start += -(-size // 16) * 16
        self.size = start
        self.data, self.diff = self.zeros(), self.zeros()
        for slot in self.slots:
            self._move(slot, slot.blob.value, self.data)
            self._move(slot, slot.blob.gradient, self.diff)

    def zeros(self) -> Any:
        """A flat array of the arena's size, as solvers need for their histories."""
        return device.current().empty(self.size)

    def part(self, array: Any, slot: Slot) -> Any:
        return array[slot.start:slot.start + slot.size]

    def _move(self, slot: Slot, memory: Memory, array: Any) -> None:
        store, part = memory.store, self.part(array, slot)
        empty = not store.newest
        if not empty:
            part[...] = store.read(slot.layout)
        store.copies[slot.layout] = part
        store.newest, store.home = (set() if empty else {slot.layout}), slot.layout

    def open(self, which: str) -> Any:
        """The whole of "data" or "diff" for an update: brings every slot up to date and makes it the only copy."""
        for slot in self.slots:
            memory = slot.blob.value if which == "data" else slot.blob.gradient
            memory.update(slot.layout)
        return self.data if which == "data" else self.diff

    def as_memory(self, array: Any, slot: Slot) -> Memory:
        """A slot of a history array as a Memory with the parameter's shape, to be read or written in plain order."""
        memory = Memory(slot.blob.shape)
        memory.store.copies[slot.layout] = self.part(array, slot)
        memory.store.newest, memory.store.home = {slot.layout}, slot.layout
        return memory
