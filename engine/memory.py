"""An array that lives where it was last written: on the CPU, plain or in a layout of the engine, or on the GPU; in
floats, or in the type in which it came."""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any
from weakref import WeakMethod

import numpy as np

from .errors import NetError
from .layout import PLAIN
from .store import FLOAT32, GPU, Copy, Store, copy_key


class Memory:
    """A Store seen with a shape. Views of one store (Reshape, Split) are several Memories with different shapes.

    On the CPU, `read`, `write` and `update` take the layout they want; plain arrays have the shape, others are flat.
    On the GPU there is one copy, plain.
    """

    __slots__ = ("shape", "owner", "store")

    def __init__(self, shape: tuple[int, ...] = (), store: Store | None = None):
        self.shape = shape
        # whether the store was made for this memory, and may be resized with it
        self.owner = store is None
        self.store = store or Store(prod(shape))

    # --------------------------------------------------------------------------------------- for layers and solvers

    def read(self, layout: Any = PLAIN) -> Any:
        """The values, not to be written to."""
        store = self.store
        key = GPU if store.gpu else layout
        array = store.copies[key] if key in store.newest else store.read(key)
        return array.reshape(self.shape) if key is PLAIN or key is GPU else array

    def write(self, layout: Any = PLAIN) -> Any:
        """An array to be filled whole: what it holds is undefined."""
        store = self.store
        key = GPU if store.gpu else layout
        if store.home is key and key in store.newest and len(store.newest) == 1:       # as in every run but the first
            array = store.copies[key]
            store.version += 1
        else:
            array = store.write(key)
        return array.reshape(self.shape) if key is PLAIN or key is GPU else array

    def update(self, layout: Any = PLAIN) -> Any:
        """The values, to be changed in place."""
        store = self.store
        key = GPU if store.gpu else layout
        array = store.update(key)
        return array.reshape(self.shape) if key is PLAIN or key is GPU else array

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

    def read_as(self, dtype: Any) -> Any:
        """The values in another type (DTYPES), in plain order: converted once, for all who ask. Floats become whole
        numbers as `cast` says."""
        return self.store.read(self._typed(dtype)).reshape(self.shape)

    def write_as(self, dtype: Any) -> Any:
        """An array of this type to be filled whole; who reads floats gets the same values as floats."""
        key = self._typed(dtype)
        self.store.decode = None
        return self.store.write(key).reshape(self.shape)

    def _typed(self, dtype: Any) -> Any:
        dtype = np.dtype(dtype)
        device = "gpu" if self.store.gpu else "cpu"
        return copy_key(device, PLAIN, None if dtype == FLOAT32 else dtype)

    def adopt(self, array: np.ndarray, decode: Callable[[Any, Any, Any], None] | None = None) -> None:
        """Take a plain array made elsewhere as the values, without copying it. If it is not of floats, `decode(array,
        floats, kernels)` makes floats of it when they are first asked for, on the device that asks; None: the same
        numbers."""
        store = self.store
        if array.dtype != FLOAT32:
            store.put(copy_key("cpu", PLAIN, array.dtype), array.reshape(-1), decode)
        elif store.exposed or store.gpu:
            self.write()[...] = store.context.device.xp.asarray(array)
        else:
            store.put(PLAIN, array.reshape(-1))

    @property
    def is_zero(self) -> bool:
        """Whether nothing was written since the values were last cleared."""
        return self.store.is_zero

    def clear(self) -> None:
        """Set all values to zero, without touching memory until somebody reads them."""
        store = self.store                       # Store.clear, without another call: solvers do it in every iteration
        store.newest, store.lost = set(), None

    @property
    def layout(self) -> Any:
        """The layout that reading costs nothing in: the one last written, if it is up to date."""
        store = self.store                       # Store.layout, without another call: layers ask for it in every run
        home = store.home
        return home if home in store.newest and home.__class__ is not Copy else PLAIN

    # ---------------------------------------------------------------------------- for files, copies and tools: the CPU

    def plain(self) -> np.ndarray:
        """The values on the CPU, in plain order; not to be written to."""
        array: np.ndarray = self.store.read(PLAIN)
        return array.reshape(self.shape)

    def assign(self, values: Any) -> None:
        """Set all values, from the CPU, in plain order: as many, of any shape."""
        self.store.write(PLAIN).reshape(self.shape)[...] = np.asarray(values).reshape(self.shape)

    def plain_copy(self) -> Any:
        """The values in an array of the caller's, in plain order. Unlike read(), this leaves no plain copy behind."""
        store, layout = self.store, self.store.layout
        if store.gpu or layout is PLAIN or store.is_current(PLAIN):
            return self.read().copy()
        array = np.empty(store.size, np.float32)
        layout.unpack(store.read(layout), array)
        return array.reshape(self.shape)

    def magnitude(self) -> float:
        """The mean of the absolute values."""
        array = self.read()
        return float(abs(array).mean()) if array.size else 0.0

    # ------------------------------------------------------------------------------------------------- for the user

    def expose(self) -> np.ndarray:
        """The plain values as a numpy array that the user may keep, read and write; see Net's `settle`."""
        return self.store.expose().reshape(self.shape)

    def settle(self, entering: bool) -> None:
        """Before (entering) and after a run: see Store."""
        self.store.settle(entering)

    def diff(self) -> np.ndarray:
        """What users see: a live view."""
        return self.expose()

    def state(self) -> Any:
        """The values in plain order, a copy, for pickle; None: all zero."""
        return None if self.store.is_zero else self.plain().copy()

    def set_state(self, state: Any) -> None:
        if state is None:
            self.clear()
        else:
            self.assign(state)


class ByColumns(Memory):
    """A matrix whose store holds it column by column: who needs single columns finds each in one piece. All arrays that
    are handed out have the matrix's shape, as views with strides; `columns` are the same values as rows."""

    __slots__ = ()

    def read(self, layout: Any = PLAIN) -> Any:
        return Memory.read(self).reshape(self.shape[::-1]).T

    def write(self, layout: Any = PLAIN) -> Any:
        return Memory.write(self).reshape(self.shape[::-1]).T

    def update(self, layout: Any = PLAIN) -> Any:
        return Memory.update(self).reshape(self.shape[::-1]).T

    def columns(self) -> Any:
        """The values as a contiguous array (columns, rows), not to be written to."""
        return Memory.read(self).reshape(self.shape[::-1])

    def plain(self) -> np.ndarray:
        return self.store.read(PLAIN).reshape(self.shape[::-1]).T          # type: ignore[no-any-return]

    def assign(self, values: Any) -> None:
        self.store.write(PLAIN).reshape(self.shape[::-1]).T[...] = np.asarray(values).reshape(self.shape)

    def expose(self) -> np.ndarray:
        return self.store.expose().reshape(self.shape[::-1]).T


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """The method, without keeping its net alive: a store holds it as `lost`, and a net that held itself would be freed late."""
    method_of = WeakMethod(method)

    def call() -> None:
        found = method_of()
        if found is None:
            raise NetError("the net of this blob is gone, and its memory had been given to others")
        found()
    return call
