"""The GPU's kernels of sparse layers under the names and arguments of `kernels.cpu`: rows by their numbers, hashes,
tables and active sets."""
from __future__ import annotations

from typing import Any

import numpy as np

ROWS = 1 << 14                                   # whose projections are computed at a time


class SparseKernels:
    """A part of Kernels, see gpu.py. No result depends on the order in which threads run."""

    xp: Any
    each: Any
    run: Any

    def rows_forward(self, x: Any, index: Any, w: Any, y: Any, items: int, columns: int) -> None:
        self.each("sparse", "rows_forward", y.size, x, index, w, y, int(x.size // items) if items else 0, columns)

    def rows_backward(self, dy: Any, index: Any, w: Any, dx: Any, items: int, columns: int) -> None:
        self.each("sparse", "rows_backward", dx.size, dy, index, w, dx, int(dx.size // items) if items else 0, columns)

    def sum_rows(self, x: Any, scale: Any, order: Any, starts: Any, y: Any, width: int, columns: int) -> None:
        self.each("sparse", "sum_rows", y.size, x, scale, order, starts, y, width, columns)

    def group_rows(self, index: Any, count: int) -> tuple[Any, Any, Any]:
        xp, index = self.xp, index.reshape(-1)
        # the place makes keys unique: equal rows keep their order whatever sorts
        order = xp.argsort(index.astype(np.int64) << 32 | xp.arange(index.size)).astype(np.int32)
        sorted_rows = index[order]
        first = int(xp.searchsorted(sorted_rows, 0))
        order, sorted_rows = order[first:], sorted_rows[first:]
        if not len(order):
            return sorted_rows.astype(np.int32), order, xp.zeros(1, np.int32)
        begins = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), sorted_rows[1:] != sorted_rows[:-1]]))
        starts = xp.concatenate([begins, xp.asarray([len(order)])]).astype(np.int32)
        return sorted_rows[begins].astype(np.int32), xp.ascontiguousarray(order), starts

    # ------------------------------------------------------------------------------------------------ hashes and tables

    def winner_codes(self, x: Any, places: Any, codes: Any, rows: int, dim: int, first: int, tables: int, hashes: int,
                     bins: int, densified: bool) -> None:
        self.each("lsh", "winner_codes", codes.size, x, places, codes, rows, dim, first, int(places.size // bins),
                  hashes, bins, densified)

    def sign_codes(self, x: Any, signs: Any, codes: Any, rows: int, dim: int, first: int, tables: int, hashes: int,
                   width: int) -> None:
        xp, each, signs = self.xp, width // hashes, signs.reshape(-1, width)
        block, skip = first // each, first % each
        blocks = -(-(skip + tables) // each)
        for row in range(0, rows, ROWS):
            n = min(ROWS, rows - row)
            turned, y = xp.empty((n, width), np.float32), xp.empty((n, blocks, width), np.float32)
            part = xp.empty((tables, n), np.int32)
            self.each("lsh", "turn_signs", turned.size, x[row:row + n], signs, turned, dim, 1, width, 0)
            self._hadamard(turned, width)
            self.each("lsh", "turn_signs", y.size, turned, signs[1 + 2 * block:], y, width, blocks, width, 2 * width)
            self._hadamard(y, width)
            y *= signs[2 + 2 * block:2 + 2 * (block + blocks):2][None]
            self._hadamard(y, width)
            self.each("lsh", "pack_signs", part.size, y, part, n, blocks, width, hashes, skip)
            codes[:, row:row + n] = part

    def _hadamard(self, x: Any, width: int) -> None:
        h = 1
        while h < width:
            self.each("lsh", "butterfly", x.size // 2, x, h)
            h *= 2

    def fill_tables(self, codes: Any, offsets: Any, ids: Any, tables: int, first: int, size: int, fifo: bool, key: int,
                    stream: int) -> None:
        xp, buckets = self.xp, offsets.shape[1] - 1
        for t in range(tables):
            units = xp.argsort(codes[t].astype(np.int64) << 32 | xp.arange(codes.shape[1])).astype(np.int32)
            starts = xp.searchsorted(codes[t][units], xp.arange(buckets + 1, dtype=np.int32)).astype(np.int32)
            offsets[t, 0] = 0
            offsets[t, 1:] = xp.cumsum(xp.minimum(xp.diff(starts), size))
            self.each("lsh", "fill_buckets", buckets, units, starts, offsets[t], ids[t], first + t, size, fifo,
                      np.uint64(key), np.uint64(stream))

    # ------------------------------------------------------------------------------------------------------ active sets

    def _scratch(self, items: int, counted: bool, tables: int, outputs: int, size: int,
                 most: int) -> tuple[Any, int, int]:
        """(scratch (items, words) with free keys, places, room): see sampling.h."""
        room = max(16, most + (min(outputs, 2 * size * tables) if counted else 0))
        places = 2 << (room - 1).bit_length()
        scratch = self.xp.empty((items, 2 * places + room + tables + 1 if counted else places), np.int32)
        scratch[:, :places] = -1
        return scratch, places, room

    def sample_units(self, codes: Any, offsets: Any, ids: Any, moved: Any, over_codes: Any, over_ids: Any, labels: Any,
                     units: Any, found: Any, tables: int, outputs: int, size: int, samples: int, policy: int,
                     threshold: int, fill: bool, key: int, stream: int) -> None:
        items, width = len(found), int(labels.size // max(len(found), 1))
        samples = min(samples, outputs)
        scratch, places, room = self._scratch(items, policy in (1, 2), tables, outputs, size,
                                              max(samples, units.shape[-1]) + width)
        self.each("sampling", "sample_units", items, codes, offsets, ids, moved, over_codes, over_ids, labels, units,
                  found, scratch, np.int64(scratch.shape[1]), places, room, *self._extents(offsets, ids, over_ids),
                  tables, outputs, size, samples, policy, threshold, fill, np.uint64(key), np.uint64(stream), width,
                  int(units.size // max(items, 1)))

    def sample_union(self, codes: Any, offsets: Any, ids: Any, moved: Any, over_codes: Any, over_ids: Any, labels: Any,
                     hits: Any, units: Any, probed: Any, tables: int, outputs: int, size: int, samples: int,
                     policy: int, key: int, stream: int) -> tuple[int, ...]:
        items, samples = len(probed), min(samples, outputs)
        scratch, places, room = self._scratch(1, False, tables, outputs, size, len(units) + 16)
        found = self.xp.zeros(3, np.int32)
        self.each("sampling", "sample_union", 1, codes, offsets, ids, moved, over_codes, over_ids, labels, hits, units,
                  probed, found, scratch, places, room, *self._extents(offsets, ids, over_ids), tables, outputs, size,
                  samples, policy, np.uint64(key), np.uint64(stream), items, int(labels.size // max(items, 1)),
                  int(hits.size // max(items, 1)))
        return tuple(found.tolist())

    def _extents(self, offsets: Any, ids: Any, over_ids: Any) -> tuple[Any, ...]:
        return np.int64(offsets.shape[1] - 1), np.int64(ids.shape[1]), np.int64(over_ids.shape[1])

    # --------------------------------------------------------------------------------------------------------- products

    def _row_of(self, order: Any, starts: Any) -> Any:
        """Which row each entry belongs to, int32."""
        return self.xp.searchsorted(starts[1:], self.xp.arange(order.size, dtype=np.int32),
                                    side="right").astype(np.int32)

    def units_forward(self, x: Any, w: Any, bias: Any, rows: Any, order: Any, starts: Any, y: Any, squares: Any,
                      items: int, width: int, columns: int) -> None:
        self.run("unit_products", "units_forward", min(-(-order.size // 8), 65535), x, w, bias, rows, order,
                 self._row_of(order, starts), y, width, columns, int(order.size))
        if squares is not None:
            self.run("unit_products", "row_squares", min(-(-rows.size // 8), 65535), w, rows, squares, columns,
                     int(rows.size))

    def units_backward(self, x: Any, w: Any, dy: Any, rows: Any, order: Any, starts: Any, dw: Any, dbias: Any, dx: Any,
                       items: int, width: int, columns: int) -> None:
        if dw is not None:
            self.sum_rows(x, dy, order, starts, dw, width, columns)
        if dbias is not None:
            self.sum_rows(self.xp.ones(items, np.float32), dy, order, starts, dbias, width, 1)
        if dx is not None:
            unit = self.xp.full(items * width, -1, np.int32)
            unit[order] = rows[self._row_of(order, starts)]
            dx[...] = 0
            self.rows_forward(dy, unit, w, dx, items, columns)

    def merge_best(self, scores: Any, best: Any, unit: Any, items: int, first: int) -> None:
        k, n = best.size // max(items, 1), scores.size // max(items, 1)
        old, old_unit = best.copy(), unit.copy()
        for place in range(k):
            self.run("unit_products", "next_best", items, scores, old, old_unit, best, unit, n, k, first, place)

    # ---------------------------------------------------------------------------------------------------- their losses

    def active_softmax_forward(self, score: Any, unit: Any, label: Any, p: Any, place: Any, scale: Any, share: Any,
                               each: Any, items: int) -> tuple[int, int, int]:
        return self._active("active_softmax_forward", score, unit, label, p, place, scale, share, each, items)

    def active_sigmoid_forward(self, score: Any, unit: Any, label: Any, p: Any, place: Any, scale: Any, share: Any,
                               each: Any, items: int) -> tuple[int, int, int]:
        return self._active("active_sigmoid_forward", score, unit, label, p, place, scale, share, each, items)

    def _active(self, name: str, score: Any, unit: Any, label: Any, p: Any, place: Any, scale: Any, share: Any,
                each: Any, items: int) -> tuple[int, int, int]:
        """(what counts, the first bad label, the first bad unit), read from the GPU in one transfer."""
        if not items:
            return 0, -1, -1
        width, labels = score.size // items, label.size // items
        state = self.xp.empty((items, 3), np.int32)
        self.run("active_set", name, items, score, unit, label, p, place, scale, share, each, state, width, labels)
        host = state if self.xp is np else state.get()
        counted = int(host[:, 0].sum(dtype=np.int64))

        def first(column: int, extent: int) -> int:
            items_with = np.flatnonzero(host[:, column] != 2**31 - 1)
            return int(items_with[0] * extent + host[items_with[0], column]) if items_with.size else -1
        return counted, first(1, labels), first(2, width)

    def active_set_backward(self, p: Any, place: Any, scale: Any, share: Any, weights: Any, dx: Any, items: int,
                            weight: float) -> None:
        if items:
            width, labels = p.size // items, place.size // items
            self.run("active_set", "active_set_backward", items, p, place, scale, share, weights, dx, float(weight),
                     width, labels)

    def best_units(self, score: Any, unit: Any, best: Any, items: int, width: int) -> None:
        if items:
            self.run("active_set", "best_units", items, score, unit, best, width, best.size // items)
