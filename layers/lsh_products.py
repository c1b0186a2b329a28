"""Scores of the units in active sets, and their gradients: products of items with a few rows of the weights."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.blob import Blob
from ..engine.store import INT32
from .lsh_probability import log_probability, log_probability_of_batch

if TYPE_CHECKING:
    from .lsh_inner_product import LSHInnerProductLayer


class OwnProducts:
    """EXAMPLE: each item with the units of its own set, row by row of the weights."""

    def __init__(self, layer: LSHInnerProductLayer):
        self.layer, self.sets, self.p, self.wanted = layer, layer.sets, layer.sets.p, [False]
        self.k, self.xp, self.device = layer.k, layer.device.xp, layer.device

    def train(self, x: Any, labels: Any, top: list[Blob]) -> None:
        units, found = self.sets.of_examples(x, labels)
        with self.layer.part("product"):
            self.forward(x, units, top, found if self.p.log_q else None)

    def test(self, x: Any, top: list[Blob]) -> None:
        """TEST with test: SAMPLED."""
        self.sets.rehash_for_test()
        self.forward(x, self.sets.for_test(x), top, None)
        if self.p.test_top_k:
            self._keep_best(top, self.p.test_top_k)

    def write(self, top: list[Blob], width: int, units: Any) -> Any:
        """Scores (N, width) to be filled; `units` are theirs."""
        for blob in top:
            blob.reshape(self.layer.rows, width)
        self.units = units
        top[1].value.write_as(INT32)[...] = units
        return top[0].value.write()

    def forward(self, x: Any, units: Any, top: list[Blob], found: Any) -> None:
        """`found` (N, 4): how each set came about; log q is subtracted where it is given."""
        weights, *bias = (blob.value.read() for blob in self.layer.blobs)
        score = self.write(top, units.shape[1], units)
        score[...] = 0
        rows, order, starts = self.groups = self.k.group_rows(units, self.layer.outputs)
        squares = self.xp.empty(len(rows), np.float32) if found is not None and self.sets.tables else None
        self.k.units_forward(x, weights, bias[0] if bias else None, rows, order, starts, score, squares, *units.shape,
                             self.layer.inputs)
        if found is not None:
            score -= self._log_q(x, score, bias, squares, found)

    def _log_q(self, x: Any, score: Any, bias: list[Any], squares: Any, found: Any) -> Any:
        xp, units, rho = self.xp, self.units, None
        if squares is not None:
            _, order, starts = self.groups
            norms = xp.zeros(units.size, np.float32)
            norms[order] = squares[xp.searchsorted(starts[1:], xp.arange(len(order), dtype=np.int32), side="right")]
            dots = score - bias[0][xp.maximum(units, 0)] if bias else score
            rho = self.cosines(dots, x, norms.reshape(units.shape))
        log = log_probability(xp, self.p, self.sets.bins, rho, found, self.layer.outputs, self.sets.samples)
        return xp.where((xp.arange(units.shape[1])[None] >= found[:, :1]) & (units >= 0), log, 0)

    def cosines(self, dots: Any, x: Any, squares: Any) -> Any:
        lengths = self.xp.sqrt((x * x).sum(1)[:, None] * squares)
        return dots / self.xp.maximum(lengths, np.finfo(np.float32).tiny)

    def _keep_best(self, top: list[Blob], count: int) -> None:
        """Of each item's units the best, best first, of equal ones the lower."""
        xp, units, score, items = self.xp, self.units, top[0].value.read(), self.layer.rows
        best = xp.empty((items, count), np.int32)
        self.k.best_units(score, units, best, items, units.shape[1])
        first = xp.arange(items)[:, None] * (self.layer.outputs + 1)       # of an item's keys: no unit comes twice
        keys = (units + first).reshape(-1)
        order = xp.argsort(keys)
        place = order[xp.searchsorted(keys[order], (best + first).reshape(-1))].reshape(best.shape)
        self.write(top, count, best)[...] = xp.where(best >= 0, score.reshape(-1)[place], 0)

    def backward(self, x: Any, dy: Any, needs_dx: bool) -> Any:
        """Returns dx (N, inputs), or None. The gradients of weights and bias come last: a solver may update rows at
        once."""
        self.wanted = [bool(self.layer.param_propagate_down[i]) for i in range(len(self.layer.blobs))]
        with self.layer.part("gradient"):
            return self._backward(x, dy, needs_dx)

    def _backward(self, x: Any, dy: Any, needs_dx: bool) -> Any:
        layer, wanted, inputs, items = self.layer, self.wanted, self.layer.inputs, len(x)
        rows, order, starts = self.groups
        if wanted[0]:
            self.sets.note(rows)
        width = self.units.shape[1]
        dx = self.xp.empty((items, inputs), np.float32) if needs_dx else None
        if self._updates_at_once():
            grants = [blob.sparse.grant for blob in layer.blobs]           # type: ignore[union-attr]
            (constants, weights), (bias_constants, bias) = [*(grant.take() for grant in grants), ((), [])][:2]
            arrays = [array for part in (weights, bias) for array in (*part, None, None, None)[:3]]
            self.k.units_update(x, *arrays, dy, rows, order, starts, dx, items, width, inputs, grants[0].kernel,
                                constants, bias_constants)
            return dx
        dw = self.xp.empty((len(rows), inputs), np.float32) if wanted[0] else None
        db = self.xp.empty((len(rows), 1), np.float32) if wanted[1:] == [True] else None
        self.k.units_backward(x, layer.blobs[0].value.read(), dy, rows, order, starts, dw, db, dx, items, width, inputs)
        self.accumulate(rows, dw, db)
        return dx

    def _updates_at_once(self) -> bool:
        """Whether rows may be updated while backward has them: the solver lets us, and there is a kernel for it."""
        grants: list[Any] = [getattr(blob.sparse, "grant", None) for blob in self.layer.blobs]
        return all(self.wanted) and all(grants) and bool(grants[0].kernel)

    def accumulate(self, rows: Any, dw: Any, db: Any) -> None:
        for blob, values in zip(self.layer.blobs, (dw, db)):
            if values is not None:
                blob.sparse.accumulate(rows, values)                       # type: ignore[union-attr]


class SharedProducts(OwnProducts):
    """BATCH in TRAIN: one sorted set of units for all items, plain products with a copy of their rows."""

    def train(self, x: Any, labels: Any, top: list[Blob]) -> None:
        xp, p, layer = self.xp, self.p, self.layer
        units, found, probed = self.sets.of_batch(x, labels)
        with self.layer.part("product"):
            weights, *bias = (blob.value.read() for blob in layer.blobs)
            score = self.write(top, len(units), units)
            self.rows = xp.ascontiguousarray(weights[units])
            if len(x):
                self.device.gemm(False, True, len(x), len(units), layer.inputs, x, self.rows, score, 0.0)
            if p.log_q:
                rho = self.cosines(score, x, (self.rows * self.rows).sum(1)[None]) if self.sets.tables else None
                log = log_probability_of_batch(xp, p, self.sets.bins, rho, found, probed, layer.outputs,
                                               self.sets.samples)
                score -= xp.where(xp.isin(units, labels), 0, log).astype(np.float32)
            if bias:
                score += bias[0][units]

    def _backward(self, x: Any, dy: Any, needs_dx: bool) -> Any:
        inputs, (items, width), dx, dw = self.layer.inputs, dy.shape, None, None
        if self.wanted[0]:
            self.sets.note(self.units)
            dw = self.xp.zeros((width, inputs), np.float32)
            self.device.gemm(True, False, width, inputs, items, dy, x, dw, 0.0)
        if needs_dx:
            dx = self.xp.zeros((items, inputs), np.float32)
            self.device.gemm(False, False, items, inputs, width, dy, self.rows, dx, 0.0)
        self.accumulate(self.units, dw, dy.sum(0).reshape(-1, 1) if self.wanted[1:] == [True] else None)
        return dx
