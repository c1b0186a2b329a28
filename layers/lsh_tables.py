"""Tables of units by the hashes of their weights: what LSHInnerProduct samples from."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.layer import Layer
from ..engine.random import stream
from ..proto import brew_pb2 as pb
from .lsh_hashes import Hashes

MERGED = 1 / 4               # the share of units in the overlay at which it is merged into the tables


class UnitTables:
    """For each of num_tables hashes, the units (rows of the weights) in each bucket: flat offsets and ids, at most
    bucket_size units a bucket.

    INCREMENTAL: units whose weights have changed leave the tables (their bit in `moved` is set) and are found in the
    overlay, which has their codes, sorted for each table; when it has grown to a quarter of all units, everything is
    hashed anew, which merges it.
    """

    def __init__(self, layer: Layer, p: pb.LSHParameter, outputs: int, dim: int):
        self.layer, self.p, self.outputs = layer, p, outputs
        self.hashes = Hashes(layer, p, dim)
        self.k, self.xp = layer.k, layer.device.xp
        layer.require(p.bucket_size > 0, "bucket_size must be more than 0", "lsh_param.bucket_size")
        self.capacity = min(outputs, self.hashes.buckets * p.bucket_size)
        self.built = 0                                     # how often
        self.offsets: Any = None
        self.ids: Any = None
        self.clear_overlay()

    @property
    def bytes(self) -> int:
        """Of the tables, without overlay."""
        return 4 * self.hashes.tables * (self.hashes.buckets + 1 + self.capacity)

    def clear_overlay(self) -> None:
        self.moved = None
        self.over_codes = self.over_ids = self.xp.empty((self.hashes.tables, 0), np.int32)
        self.rows = self.xp.empty(0, np.int32)             # the units in the overlay, sorted
        self.row_codes = self.over_codes                   # (tables, rows) their buckets

    def build(self, w: Any) -> None:
        """Hash all units by the weights w (outputs, inputs)."""
        tables, p = self.hashes.tables, self.p
        if self.offsets is None:
            self.offsets = self.xp.empty((tables, self.hashes.buckets + 1), np.int32)
            self.ids = self.xp.empty((tables, self.capacity), np.int32)
            self.ids[...] = -1
        alike, draws = True, stream(f"{self.layer.name}/reservoir", self.built)
        for first, n in self.hashes.groups(self.outputs):
            codes = self.hashes.codes(w, first, n)
            alike = alike and self.built == 0 and bool((codes == codes[:, :1]).all())
            self.k.fill_tables(codes, self.offsets[first:first + n], self.ids[first:first + n], n, first, p.bucket_size,
                               p.bucket_policy == p.FIFO, self.layer.seed, draws)
        self.layer.require(not alike or self.outputs == 1,
                           "all rows of the weights have the same hashes: they need a filler that makes them differ, "
                           "such as gaussian", "inner_product_param.weight_filler")
        self.built += 1
        self.clear_overlay()

    def move(self, w: Any, changed: Any) -> None:
        """Hash anew the units `changed` (sorted), whose weights have changed."""
        xp = self.xp
        rows = xp.union1d(self.rows, changed).astype(np.int32)
        if len(rows) >= MERGED * self.outputs or self.offsets is None:
            self.build(w)
            return
        if not len(changed):
            return
        codes = xp.empty((self.hashes.tables, len(rows)), np.int32)
        codes[:, xp.searchsorted(rows, self.rows)] = self.row_codes
        fresh = self.hashes.codes(xp.ascontiguousarray(w[changed]), 0, self.hashes.tables)
        codes[:, xp.searchsorted(rows, changed)] = fresh
        self.rows, self.row_codes = rows, codes
        self._sort_overlay()
        self.built += 1

    def arrays(self) -> tuple[Any, ...]:
        """What the sampling kernels read."""
        return self.offsets, self.ids, self.moved, self.over_codes, self.over_ids

    def state(self) -> Any:
        """For snapshots: plain values and arrays on the CPU."""
        if self.offsets is None:
            return None
        arrays = {"offsets": self.offsets, "ids": self.ids, "rows": self.rows, "row_codes": self.row_codes}
        return {"built": self.built, **{name: a.get() if hasattr(a, "get") else a for name, a in arrays.items()}}

    def restore(self, state: Any) -> None:
        """Take back what state() gave; it may have come from a file."""
        if state is None:
            self.offsets = self.ids = None
            self.built = 0
            self.clear_overlay()
            return
        tables, shapes = self.hashes.tables, {k: np.shape(state[k]) for k in ("offsets", "ids", "rows", "row_codes")}
        wanted = {"offsets": (tables, self.hashes.buckets + 1), "ids": (tables, self.capacity),
                  "row_codes": (tables, *shapes["rows"])}
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise ValueError(f"its tables are for another lsh_param: {name} has the shape {shapes[name]}, "
                                 f"here it is {shape}")
        xp = self.xp
        self.offsets, self.ids = (xp.array(state[k], np.int32) for k in ("offsets", "ids"))
        self.clear_overlay()
        self.built = state["built"]
        rows = np.asarray(state["rows"], np.int32)
        if len(rows):
            self.rows, self.row_codes = xp.array(rows), xp.array(state["row_codes"], np.int32)
            self._sort_overlay()

    def _sort_overlay(self) -> None:
        xp, rows, codes = self.xp, self.rows, self.row_codes
        order = xp.argsort(codes.astype(np.int64) << 32 | xp.arange(len(rows)), axis=1)
        self.over_codes, self.over_ids = xp.take_along_axis(codes, order, 1), rows[order]
        bits = xp.zeros(-(-self.outputs // 8) * 8, np.uint8)
        bits[rows] = 1
        self.moved = xp.packbits(bits.reshape(-1, 8)[:, ::-1].reshape(-1))
