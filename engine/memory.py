"""An array that lives where it was last written: on the CPU, plain or in a layout of the engine, or on the GPU."""
from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod
from typing import Any
from weakref import WeakMethod

import numpy as np

from . import device
from .errors import NetError
from .layout import PLAIN
from .pool import POOL

GPU: Any = "gpu"       # the key of the copy on the GPU; the others are layouts


class Store:
    """The copies of one array. `newest` holds the keys of those that are up to date; none: all values are zero."""

    def __init__(self, size: int):
        self.size = size
        self.copies: dict[Any, Any] = {}
        self.newest: set[Any] = set()
        self.home: Any = PLAIN                   # the key last written
        self.version = 0                         # changes whenever somebody may have written
        self.exposed = False                     # the plain copy was handed to the user, who may look or write any time
        self.lent: dict[Any, Any] = {}           # which copies are the pool's, whole
        self.pooled = False                      # whether the next copies are to come from the pool
        self.lost: Callable[[], None] | None = None      # set when the values were given up: called when somebody wants them

    def allocate(self, key: Any) -> Any:
        if key not in self.copies:
            self.copies[key] = self._new(key)
        return self.copies[key]

    def _new(self, key: Any) -> Any:
        size = self.size if key is PLAIN or key is GPU else key.size
        if key is GPU:
            return device.current().empty(size)
        if not self.pooled:
            return device.Cpu.empty(size)
        self.lent[key] = POOL.take(size)
        if key is not PLAIN:
            key.clear_padding(self.lent[key][:size])
        return self.lent[key][:size]

    def read(self, key: Any) -> Any:
        """The up-to-date copy `key`, brought there if it is not. Nets that share weights may do so in several threads
        at once: a copy is seen by the others when it is complete."""
        if key in self.newest:
            return self.copies[key]
        if self.lost is not None:
            self.lost()
            return self.read(key)
        array = self.copies[key] if key in self.copies else self._new(key)
        if not self.newest:
            array[...] = 0
        elif key is PLAIN:
            source = GPU if GPU in self.newest else next(iter(self.newest))
            if source is GPU:
                array[...] = self.copies[GPU].get() if hasattr(self.copies[GPU], "get") else self.copies[GPU]
            else:
                source.unpack(self.copies[source], array)
        elif key is GPU:
            plain = self.read(PLAIN)
            if hasattr(array, "set"):
                array.set(plain)
            else:
                array[...] = plain
        else:
            key.pack(self.read(PLAIN), array)
        self.copies[key] = array
        self.newest.add(key)
        return array

    def write(self, key: Any) -> Any:
        """The copy `key` for overwriting whole; the others are out of date from now on."""
        array = self.copies[key] if key in self.copies else self.allocate(key)
        if self.home is not key or len(self.newest) != 1 or key not in self.newest:
            self.newest = {key}
            self.home = key
        self.version += 1
        self.lost = None
        return array

    def clear(self) -> None:
        """Make all values zero, without touching memory until somebody reads them."""
        self.newest, self.lost = set(), None

    @property
    def is_zero(self) -> bool:
        """Whether nothing was written since the values were last cleared: all are zero and need not be read."""
        return not self.newest and self.lost is None

    def give_up(self, lost: Callable[[], None]) -> None:
        """Let others have the memory, unless the user holds the plain copy. Who wants the values again calls `lost`, which
        makes them or raises."""
        if self.exposed and self.looked_at():
            return
        for array in self.lent.values():
            POOL.give(array)
        self.lent, self.copies, self.newest, self.pooled, self.lost = {}, {}, set(), True, lost

    def looked_at(self) -> bool:
        """Whether the user still holds the plain copy or a part of it."""
        plain = self.copies.get(PLAIN)
        if plain is None:
            return False
        base = plain.base
        return base is None or sys.getrefcount(base) > 3       # plain itself, the name here, the argument


class Memory:
    """A Store seen with a shape. Views of one store (Reshape, Split) are several Memories with different shapes.

    On the CPU, `read`, `write` and `update` take the layout they want; plain arrays have the shape, others are flat.
    On the GPU there is one copy, plain.
    """

    def __init__(self, shape: tuple[int, ...] = (), store: Store | None = None):
        self.shape = shape
        self.store = store or Store(prod(shape))

    # --------------------------------------------------------------------------------------- for layers and solvers

    def read(self, layout: Any = PLAIN) -> Any:
        """The values, not to be written to."""
        key = GPU if device.gpu_runs else layout
        store = self.store
        array = store.copies[key] if key in store.newest else store.read(key)
        return array.reshape(self.shape) if key is PLAIN or key is GPU else array

    def write(self, layout: Any = PLAIN) -> Any:
        """An array to be filled whole: what it holds is undefined."""
        key = GPU if device.gpu_runs else layout
        store = self.store
        if store.home is key and key in store.newest and len(store.newest) == 1:       # as in every run but the first
            array = store.copies[key]
            store.version += 1
        else:
            array = store.write(key)
        return array.reshape(self.shape) if key is PLAIN or key is GPU else array

    def update(self, layout: Any = PLAIN) -> Any:
        """The values, to be changed in place."""
        key = GPU if device.gpu_runs else layout
        if key not in self.store.newest:
            self.store.read(key)
        return self.write(layout)

    def accumulate(self, layout: Any = PLAIN) -> tuple[Any, float]:
        """(array, beta): where to add a gradient. beta 0: the values so far are zero and need not be read."""
        if not self.store.newest:
            return self.write(layout), 0.0
        return self.update(layout), 1.0

    def adding(self, layout: Any = PLAIN) -> Any:
        """An array to be added to: the gradient so far, or zeros."""
        array, beta = self.accumulate(layout)
        if beta == 0:
            array[...] = 0
        return array

    def plain_copy(self) -> Any:
        """The values in an array of the caller's, in plain order. Unlike read(), this leaves no plain copy behind."""
        if device.gpu_runs or PLAIN in self.store.newest or not self.store.newest or GPU in self.store.newest:
            return self.read().copy()
        layout = next(iter(self.store.newest))
        array = np.empty(self.store.size, np.float32)
        layout.unpack(self.store.copies[layout], array)
        return array.reshape(self.shape)

    def adopt(self, array: np.ndarray) -> None:
        """Take a plain array made elsewhere as the values, without copying it."""
        if self.store.exposed or device.gpu_runs:
            self.write()[...] = device.current().xp.asarray(array)
        else:
            self.store.copies[PLAIN] = array.reshape(-1)
            self.store.write(PLAIN)

    def clear(self) -> None:
        """Set all values to zero, without touching memory until somebody reads them."""
        self.store.clear()

    @property
    def layout(self) -> Any:
        """The layout that reading costs nothing in: the one last written, if it is up to date."""
        store = self.store
        if store.home in store.newest and store.home is not GPU:
            return store.home
        return PLAIN

    # ------------------------------------------------------------------------------------------------- for the user

    def expose(self) -> np.ndarray:
        """The plain values as a numpy array that the user may keep, read and write; see Net's `settle`."""
        plain: np.ndarray = self.store.read(PLAIN)
        self.store.write(PLAIN)
        self.store.exposed = True
        self.store.lent.pop(PLAIN, None)         # the user's now, not the pool's
        return plain.reshape(self.shape)

    def settle(self, entering: bool) -> None:
        """Before (entering) and after a run: a user who holds the plain copy may have written it, and will look at it."""
        store = self.store
        if not store.exposed:
            return
        if not store.looked_at():
            store.exposed = False
        elif not entering:
            store.read(PLAIN)
        elif PLAIN in store.newest:
            store.write(PLAIN)

def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """The method, without keeping its net alive: a store holds it as `lost`, and a net that held itself would be freed late."""
    method_of = WeakMethod(method)

    def call() -> None:
        found = method_of()
        if found is None:
            raise NetError("the net of this blob is gone, and its memory had been given to others")
        found()
    return call
