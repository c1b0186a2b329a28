"""Gradients: dense arrays, or the few rows of a large matrix that a batch touches."""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .context import active
from .memory import Memory
from .store import Store


# one class for values and gradients: with two, Python's inline caches miss (3 % of small layers' time)
Dense = Memory


class RowSparse:
    """The gradient of a matrix of which a batch touches few rows: their numbers (R), sorted, each once, and their
    values (R, C). `axis` says which axis of the blob counts rows; rows along axis 1 are the columns of a ByColumns
    memory. A vector has rows of one value. All other rows are zero, and solvers leave them as they are.
    """

    # nothing of it lies in a store; what goes through all stores finds an empty one
    store = Store(0)

    def __init__(self, shape: tuple[int, ...], axis: int = 0):
        self.shape, self.axis = shape, axis
        self.xp = active().device.xp
        self.rows: Any = None                # int32 (R), or None: no row was touched
        self.values: Any = None
        self.grant: Any = None               # a solver's Grant, called by accumulate, or None

    @property
    def is_zero(self) -> bool:
        """Whether no row was touched since the gradient was last cleared."""
        return self.rows is None

    def clear(self) -> None:
        """Make all rows zero."""
        self.rows = self.values = None

    def accumulate(self, rows: Any, values: Any) -> None:
        """Add `values` (R, C) to the rows `rows` (R), sorted and each once. Both are the gradient's from now on. A
        solver may have granted that the rows are updated at once: a layer calls this after its last use of the
        weights."""
        if self.rows is None:
            self.rows, self.values = rows, values
        elif len(rows):
            xp, both = self.xp, self.xp.union1d(self.rows, rows)
            merged = xp.zeros((len(both), values.shape[1]), np.float32)
            merged[xp.searchsorted(both, self.rows)] = self.values
            merged[xp.searchsorted(both, rows)] += values
            self.rows, self.values = both, merged
        if self.grant is not None:
            self.grant(self)

    def _by_rows(self, array: Any) -> Any:
        """A view (rows, columns) of an array of the blob's shape."""
        return array.T if self.axis else array.reshape(len(array), -1)

    def dense(self) -> Any:
        """All rows, in the blob's shape, on the device."""
        array = self.xp.zeros(self.shape, np.float32)
        if self.rows is not None:
            self._by_rows(array)[self.rows] = self.values
        return array

    read = dense

    def plain(self) -> np.ndarray:
        """All rows, in the blob's shape, on the CPU."""
        array = self.dense()
        return array.get() if hasattr(array, "get") else array           # type: ignore[no-any-return]

    def diff(self) -> np.ndarray:
        """What users see: a copy, which cannot be written to."""
        array = self.plain()
        array.flags.writeable = False
        return array

    def assign(self, values: Any) -> None:
        """Take the gradient of the rows in which `values`, of the blob's shape, have any."""
        array = np.asarray(values, np.float32).reshape(self.shape)
        array = self._by_rows(array)
        rows = np.flatnonzero(array.any(1)).astype(np.int32)
        self.set_state((rows, array[rows]) if len(rows) else None)

    def magnitude(self) -> float:
        """The mean of the absolute values, rows that are zero included."""
        return float(abs(self.values).sum()) / prod(self.shape) if self.rows is not None else 0.0

    def settle(self, entering: bool) -> None:
        """Nobody holds a view."""

    def state(self) -> Any:
        """(rows, values) on the CPU, copies, for pickle; None: no row was touched."""
        if self.rows is None:
            return None
        return tuple((a.get() if hasattr(a, "get") else a.copy()) for a in (self.rows, self.values))

    def set_state(self, state: Any) -> None:
        self.rows, self.values = (None, None) if state is None else map(self.xp.asarray, state)
