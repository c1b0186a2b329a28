"""Active sets of LSHInnerProduct: chosen, computed, and differentiated."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.blob import Blob
from ..engine.random import stream
from ..engine.store import INT32
from ..proto import brew_pb2 as pb
from .lsh_probability import log_probability, log_probability_of_batch
from .lsh_tables import UnitTables

if TYPE_CHECKING:
    from .lsh_inner_product import LSHInnerProductLayer


class ActiveSets:
    """Which units are computed, and when their tables are made anew."""

    def __init__(self, layer: LSHInnerProductLayer, p: pb.LSHParameter):
        require, self.layer, self.p = layer.require, layer, p
        self.k, self.xp, self.device = layer.k, layer.device.xp, layer.device
        require(p.num_samples > 0, "num_samples must be given, and be more than 0", "lsh_param.num_samples")
        require(p.rehash_interval > 0, "rehash_interval must be more than 0", "lsh_param.rehash_interval")
        require(p.rehash_growth >= 1, f"rehash_growth must be 1 or more, found {p.rehash_growth:g}", "lsh_param.rehash_growth")
        require(1 <= p.threshold <= p.num_tables, f"threshold must lie between 1 and num_tables, {p.num_tables}, found {p.threshold}", "lsh_param.threshold")
        require(not (p.log_q and p.sampling == p.TOP_K), "log_q is not known for TOP_K: what is found most depends on all other units", "lsh_param.log_q")
        require(layer.train or p.sampling != p.UNIFORM, "test: SAMPLED needs tables, and UNIFORM has none", "lsh_param.test")
        self.samples = min(p.num_samples, layer.outputs)
        self.batch = p.active_set == p.BATCH and layer.train
        self.tables = UnitTables(layer, p, layer.outputs, layer.inputs) if p.sampling != p.UNIFORM else None
        self.interval, self.hashed = float(p.rehash_interval), -1          # iterations between rehashes, and the last one's
        self.changed: Any = None                           # bool (outputs): units updated since then, for INCREMENTAL
        self.rehash_seconds = 0.0                          # of the last rehash
        self.version: Any = None                           # TEST: of the weights that the tables are of

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Count the time of a part, where somebody asks for it."""
        parts = self.layer.parts
        if parts is None:
            yield
            return
        self.device.synchronize()
        start = perf_counter()
        yield
        self.device.synchronize()
        parts[name] = parts.get(name, 0.0) + perf_counter() - start

    # ------------------------------------------------------------------------------------------------------- rehashing

    def rehash(self) -> None:
        """In TRAIN, make the tables anew where it is time. An iteration that is repeated finds them made. Its time counts
        for all iterations until the next."""
        now, p, w = self.layer.forwards, self.p, self.layer.blobs[0].value.read()
        if self.tables is None or 0 <= self.hashed and now - self.hashed < int(self.interval):
            return
        start = perf_counter()
        if self.hashed >= 0:
            self.interval = min(self.interval * p.rehash_growth, 2.0**31)
        if self.changed is not None and self.tables.built:
            self.tables.move(w, self.xp.flatnonzero(self.changed).astype(np.int32))
        else:
            self.tables.build(w)
        if p.rehash == p.INCREMENTAL:
            self.changed = self.xp.zeros(self.layer.outputs, bool)
        self.hashed = now
        self.device.synchronize()
        self.rehash_seconds = perf_counter() - start

    # -------------------------------------------------------------------------------------------------------- sampling

    def _codes(self, x: Any) -> Any:
        if self.tables is None:
            return self.xp.empty((0, len(x)), np.int32)
        with self._part("hash"):
            return self.tables.hashes.codes(x, 0, self.tables.hashes.tables)

    def _tables(self) -> tuple[Any, ...]:
        none = self.xp.empty((0, 0), np.int32)
        return (none, none, None, none, none) if self.tables is None else self.tables.arrays()

    def _sample(self, codes: Any, labels: Any, width: int, policy: int, fill: bool, count: int) -> tuple[Any, Any]:
        """(units (N, width), found (N, 4)) for each example."""
        p, layer, items = self.p, self.layer, codes.shape[1]
        units, found = self.xp.empty((items, width), np.int32), self.xp.empty((items, 4), np.int32)
        with self._part("sample"):
            self.k.sample_units(codes, *self._tables(), labels, units, found, len(codes), layer.outputs, p.bucket_size, self.samples,
                                policy, p.threshold, fill, layer.seed, stream(f"{layer.name}/sample", count))
        return units, found

    def train(self, x: Any, labels: Any, top: list[Blob]) -> None:
        self.rehash()
        if self.layer.parts is not None:
            self.layer.parts["rehash"] = self.layer.parts.get("rehash", 0.0) + self.rehash_seconds / int(self.interval)
        given = (labels >= 0).sum(1)
        if self.batch:
            self._train_batch(x, labels, top, max(self.samples, min(int(given.sum()), self.layer.outputs)))
            return
        width = max(self.samples, int(given.max()) if given.size else 0)
        units, found = self._sample(self._codes(x), labels, width, self.p.sampling, True, self.layer.forwards)
        with self._part("product"):
            self._compute(x, units, top, found)

    def _compute(self, x: Any, units: Any, top: list[Blob], found: Any) -> None:
        """Scores of each example's own units, row by row of the weights."""
        weights, *bias = (blob.value.read() for blob in self.layer.blobs)
        items, width = units.shape
        for blob in top:
            blob.reshape(items, width)
        self.units = units
        top[1].value.write_as(INT32)[...] = units
        score = top[0].value.write()
        score[...] = 0
        rows, order, starts = self.groups = self.k.group_rows(units, self.layer.outputs)
        log_q = self.p.log_q and self.layer.train
        squares = self.xp.empty(len(rows), np.float32) if log_q and self.tables is not None else None
        self.k.units_forward(x, weights, bias[0] if bias else None, rows, order, starts, score, squares, items, width, self.layer.inputs)
        if log_q:
            rho = None
            if squares is not None:
                norms = self.xp.zeros(units.size, np.float32)
                norms[order] = squares[self.xp.searchsorted(starts[1:], self.xp.arange(len(order), dtype=np.int32), side="right")]
                dots = score - bias[0][self.xp.maximum(units, 0)] if bias else score
                rho = self._cosines(dots, x, norms.reshape(units.shape))
            log = log_probability(self.xp, self.p, self.bins, rho, found, self.layer.outputs, self.samples)
            sampled = (self.xp.arange(width)[None] >= found[:, :1]) & (units >= 0)
            score -= self.xp.where(sampled, log, 0)

    @property
    def bins(self) -> int:
        return self.tables.hashes.bins if self.tables is not None else 2

    def _cosines(self, dots: Any, x: Any, squares: Any) -> Any:
        lengths = self.xp.sqrt((x * x).sum(1)[:, None] * squares)
        return dots / self.xp.maximum(lengths, np.finfo(np.float32).tiny)

    def _train_batch(self, x: Any, labels: Any, top: list[Blob], room: int) -> None:
        """One sorted set of units for all examples: plain products with a copy of their rows."""
        xp, p, layer = self.xp, self.p, self.layer
        codes, items = self._codes(x), len(x)
        units, probed = xp.empty(room, np.int32), xp.empty(items, np.int32)
        hits = xp.empty((items, 0), np.int32)
        if p.sampling in (p.TOP_K, p.THRESHOLD):           # each example's own choice first
            hits, _ = self._sample(codes, xp.empty((items, 0), np.int32), self.samples, p.sampling, False, layer.forwards)
        with self._part("sample"):
            found = self.k.sample_union(codes, *self._tables(), labels, hits, units, probed, len(codes), layer.outputs, p.bucket_size,
                                        self.samples, p.sampling, layer.seed, stream(f"{layer.name}/sample", layer.forwards))
        with self._part("product"):
            self._compute_batch(x, labels, top, xp.sort(units[:sum(found)]), found, probed)

    def _compute_batch(self, x: Any, labels: Any, top: list[Blob], units: Any, found: tuple[int, int, int], probed: Any) -> None:
        xp, p, layer = self.xp, self.p, self.layer
        weights, *bias = (blob.value.read() for blob in layer.blobs)
        items, width = len(x), len(units)
        for blob in top:
            blob.reshape(items, width)
        self.units, self.rows = units, xp.ascontiguousarray(weights[units])
        top[1].value.write_as(INT32)[...] = units
        score = top[0].value.write()
        if items:
            self.device.gemm(False, True, items, width, layer.inputs, x, self.rows, score, 0.0)
        if p.log_q:
            rho = self._cosines(score, x, (self.rows * self.rows).sum(1)[None]) if self.tables is not None else None
            log = log_probability_of_batch(xp, p, self.bins, rho, found, probed, layer.outputs, self.samples)
            score -= xp.where(xp.isin(units, labels), 0, log).astype(np.float32)
        if bias:
            score += bias[0][units]

    def test(self, x: Any, top: list[Blob]) -> None:
        """TEST with test: SAMPLED: units that the tables give, nothing else."""
        assert self.tables is not None
        layer, version = self.layer, self.layer.blobs[0].value.store.version
        if version != self.version:
            self.tables.build(layer.blobs[0].value.read())
            self.version = version
        labels = self.xp.empty((len(x), 0), np.int32)
        policy = self.p.VANILLA if self.p.sampling == self.p.MIXED else self.p.sampling
        units, _ = self._sample(self._codes(x), labels, self.samples, policy, False, 0)
        self._compute(x, units, top, None)
        best = self.p.test_top_k
        if best:
            self._keep_best(top, units, best)

    def _keep_best(self, top: list[Blob], units: Any, best: int) -> None:
        xp, items = self.xp, len(units)
        order = xp.argsort(units, axis=1)                  # of equal scores the lower unit comes first
        units = xp.take_along_axis(units, order, 1)
        score = xp.where(units >= 0, xp.take_along_axis(top[0].value.read(), order, 1), -np.inf).astype(np.float32)
        kept, place = xp.full((items, best), -np.inf, np.float32), xp.full((items, best), -1, np.int32)
        self.k.merge_best(xp.ascontiguousarray(score), kept, place, items, 0)
        chosen = xp.where(place >= 0, xp.take_along_axis(units, xp.maximum(place, 0).astype(np.int64), 1), -1)
        for blob in top:
            blob.reshape(items, best)
        top[0].value.write()[...] = xp.where(chosen >= 0, kept, 0)
        top[1].value.write_as(INT32)[...] = chosen

    # -------------------------------------------------------------------------------------------------------- gradients

    def backward(self, x: Any, dy: Any, needs_dx: bool) -> Any:
        """Returns dx (N, inputs), or None."""
        with self._part("gradient"):
            return self._backward(x, dy, needs_dx)

    def _backward(self, x: Any, dy: Any, needs_dx: bool) -> Any:
        layer, inputs, items = self.layer, self.layer.inputs, len(x)
        wanted = [bool(layer.param_propagate_down[i]) for i in range(len(layer.blobs))]
        if wanted[0] and self.changed is not None:
            self.changed[self.units if self.batch else self.groups[0]] = True
        if self.batch:
            return self._backward_batch(x, dy, needs_dx, wanted)
        rows, order, starts = self.groups
        width = self.units.shape[1]
        dx = self.xp.empty((items, inputs), np.float32) if needs_dx else None
        if self._updates_at_once(wanted):
            grants = [blob.sparse.grant for blob in layer.blobs]           # type: ignore[union-attr]
            (constants, weights), (bias_constants, bias) = [*(grant.take() for grant in grants), ((), [])][:2]
            arrays = [array for part in (weights, bias) for array in (*part, None, None, None)[:3]]
            self.k.units_update(x, *arrays, dy, rows, order, starts, dx, items, width, inputs, grants[0].kernel, constants, bias_constants)
            return dx
        dw = self.xp.empty((len(rows), inputs), np.float32) if wanted[0] else None
        db = self.xp.empty((len(rows), 1), np.float32) if wanted[1:] == [True] else None
        self.k.units_backward(x, layer.blobs[0].value.read(), dy, rows, order, starts, dw, db, dx, items, width, inputs)
        self._accumulate(rows, dw, db)
        return dx

    def _updates_at_once(self, wanted: list[bool]) -> bool:
        """Whether rows may be updated while backward has them: the solver lets us, and there is a kernel for it."""
        grants: list[Any] = [getattr(blob.sparse, "grant", None) for blob in self.layer.blobs]
        return all(wanted) and all(grants) and bool(grants[0].kernel)

    def _accumulate(self, rows: Any, dw: Any, db: Any) -> None:
        for blob, values in zip(self.layer.blobs, (dw, db)):
            if values is not None:
                blob.sparse.accumulate(rows, values)                       # type: ignore[union-attr]

    def _backward_batch(self, x: Any, dy: Any, needs_dx: bool, wanted: list[bool]) -> Any:
        inputs, (items, width), dx, dw = self.layer.inputs, dy.shape, None, None
        if needs_dx:
            dx = self.xp.zeros((items, inputs), np.float32)
            self.device.gemm(False, False, items, inputs, width, dy, self.rows, dx, 0.0)
        if wanted[0]:
            dw = self.xp.zeros((width, inputs), np.float32)
            self.device.gemm(True, False, width, inputs, items, dy, x, dw, 0.0)
        db = dy.sum(0).reshape(-1, 1) if wanted[1:] == [True] else None
        self._accumulate(self.units, dw, db)
        return dx

    # ---------------------------------------------------------------------------------------------------- for snapshots

    def snapshot_state(self) -> Any:
        """Tables date from the last rehash, and cannot be made from the present weights."""
        changed = self.changed.get() if hasattr(self.changed, "get") else self.changed
        return {"interval": self.interval, "hashed": self.hashed, "tables": None if self.tables is None else self.tables.state(),
                "changed": None if changed is None else np.packbits(changed)}

    def restore_state(self, state: Any) -> None:
        """Go on exactly from there."""
        if self.tables is not None:
            self.tables.restore(state["tables"])
        self.interval, self.hashed, bits = state["interval"], state["hashed"], state["changed"]
        self.changed = None if bits is None else self.xp.asarray(np.unpackbits(bits)[:self.layer.outputs].astype(bool))
