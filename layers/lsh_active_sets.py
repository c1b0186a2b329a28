"""Which units LSHInnerProduct computes, and when their tables are made anew."""
from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.random import stream
from ..proto import brew_pb2 as pb
from .lsh_tables import UnitTables

if TYPE_CHECKING:
    from .lsh_inner_product import LSHInnerProductLayer


class ActiveSets:
    """The tables of a layer, rehashed in time, and the units that are sampled from them."""

    def __init__(self, layer: LSHInnerProductLayer, p: pb.LSHParameter):
        require, self.layer, self.p = layer.require, layer, p
        self.k, self.xp, self.device = layer.k, layer.device.xp, layer.device
        require(p.num_samples > 0, "num_samples must be given, and be more than 0", "lsh_param.num_samples")
        require(p.rehash_interval > 0, "rehash_interval must be more than 0", "lsh_param.rehash_interval")
        require(p.rehash_growth >= 1, f"rehash_growth must be 1 or more, found {p.rehash_growth:g}",
                "lsh_param.rehash_growth")
        require(1 <= p.threshold <= p.num_tables, f"threshold must lie between 1 and num_tables, {p.num_tables}, "
                f"found {p.threshold}", "lsh_param.threshold")
        require(not (p.log_q and p.sampling == p.TOP_K),
                "log_q is not known for TOP_K: what is found most depends on all other units", "lsh_param.log_q")
        require(layer.train or p.sampling != p.UNIFORM, "test: SAMPLED needs tables, and UNIFORM has none",
                "lsh_param.test")
        self.samples = min(p.num_samples, layer.outputs)
        self.tables = UnitTables(layer, p, layer.outputs, layer.inputs) if p.sampling != p.UNIFORM else None
        self.interval, self.hashed = float(p.rehash_interval), -1   # iterations between rehashes, and the last one's
        self.changed: Any = None                    # bool (outputs): units updated since then, for INCREMENTAL
        self.rehash_seconds = 0.0                   # of the last rehash
        self.version: Any = None                    # TEST: of the weights that the tables are of

    # ------------------------------------------------------------------------------------------------- rehashing

    def rehash(self) -> None:
        """In TRAIN, make the tables anew where it is time. An iteration that is repeated finds them made. Its time
        counts for all iterations until the next."""
        now, p, layer = self.layer.forwards, self.p, self.layer
        if self.tables is not None and (self.hashed < 0 or now - self.hashed >= int(self.interval)):
            start = perf_counter()
            self._hash_units(self.tables)
            if self.hashed >= 0:
                self.interval = min(self.interval * p.rehash_growth, 2.0**31)
            if p.rehash == p.INCREMENTAL:
                self.changed = self.xp.zeros(layer.outputs, bool)
            self.hashed = now
            self.device.synchronize()
            self.rehash_seconds = perf_counter() - start
        if layer.parts is not None:
            layer.parts["rehash"] = layer.parts.get("rehash", 0.0) + self.rehash_seconds / int(self.interval)

    def _hash_units(self, tables: UnitTables) -> None:
        w = self.layer.blobs[0].value.read()
        if self.changed is not None and tables.built:
            tables.move(w, self.xp.flatnonzero(self.changed).astype(np.int32))
        else:
            tables.build(w)

    def rehash_for_test(self) -> None:
        """Make the tables anew where the weights have changed."""
        weights = self.layer.blobs[0].value
        if self.tables is not None and weights.store.version != self.version:
            self.tables.build(weights.read())
            self.version = weights.store.version

    def note(self, units: Any) -> None:
        """These are about to be updated."""
        if self.changed is not None:
            self.changed[units] = True

    # -------------------------------------------------------------------------------------------------- sampling

    @property
    def bins(self) -> int:
        return self.tables.hashes.bins if self.tables is not None else 2

    def _codes(self, x: Any) -> Any:
        if self.tables is None:
            return self.xp.empty((0, len(x)), np.int32)
        with self.layer.part("hash"):
            return self.tables.hashes.codes(x, 0, self.tables.hashes.tables)

    def _tables(self) -> tuple[Any, ...]:
        none = self.xp.empty((0, 0), np.int32)
        return (none, none, None, none, none) if self.tables is None else self.tables.arrays()

    def _sample(self, codes: Any, labels: Any, width: int, policy: int, fill: bool, count: int) -> tuple[Any, Any]:
        """(units (N, width), found (N, 4)) for each example."""
        p, layer, items = self.p, self.layer, codes.shape[1]
        units, found = self.xp.empty((items, width), np.int32), self.xp.empty((items, 4), np.int32)
        with self.layer.part("sample"):
            self.k.sample_units(codes, *self._tables(), labels, units, found, len(codes), layer.outputs, p.bucket_size,
                                self.samples, policy, p.threshold, fill, layer.seed,
                                stream(f"{layer.name}/sample", count))
        return units, found

    def of_examples(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """(units (N, A), found (N, 4)): each example's labels first, -1 for padding."""
        most = int((labels >= 0).sum(1).max()) if len(labels) else 0
        return self._sample(self._codes(x), labels, max(self.samples, most), self.p.sampling, True, self.layer.forwards)

    def of_batch(self, x: Any, labels: Any) -> tuple[Any, tuple[int, int, int], Any]:
        """(units (A), sorted; found; how many tables each example probed): one set for all."""
        xp, p, layer, items = self.xp, self.p, self.layer, len(x)
        codes = self._codes(x)
        room = max(self.samples, min(int((labels >= 0).sum()), layer.outputs))
        units, probed = xp.empty(room, np.int32), xp.empty(items, np.int32)
        hits = xp.empty((items, 0), np.int32)
        if p.sampling in (p.TOP_K, p.THRESHOLD):    # each example's own choice first
            hits, _ = self._sample(codes, hits, self.samples, p.sampling, False, layer.forwards)
        with self.layer.part("sample"):
            found = self.k.sample_union(codes, *self._tables(), labels, hits, units, probed, len(codes), layer.outputs,
                                        p.bucket_size, self.samples, p.sampling, layer.seed,
                                        stream(f"{layer.name}/sample", layer.forwards))
            return xp.sort(units[:sum(found)]), found, probed

    def for_test(self, x: Any) -> Any:
        """(N, samples): units that the tables give, nothing else."""
        p = self.p
        labels, policy = self.xp.empty((len(x), 0), np.int32), p.VANILLA if p.sampling == p.MIXED else p.sampling
        return self._sample(self._codes(x), labels, self.samples, policy, False, 0)[0]

    # ---------------------------------------------------------------------------------------------- for snapshots

    def snapshot_state(self) -> Any:
        """Tables date from the last rehash, and cannot be made from the present weights."""
        changed = self.changed.get() if hasattr(self.changed, "get") else self.changed
        return {"interval": self.interval, "hashed": self.hashed,
                "tables": None if self.tables is None else self.tables.state(),
                "changed": None if changed is None else np.packbits(changed)}

    def restore_state(self, state: Any) -> None:
        """Go on exactly from there."""
        if self.tables is not None:
            self.tables.restore(state["tables"])
        self.interval, self.hashed, bits = state["interval"], state["hashed"], state["changed"]
        self.changed = None if bits is None else self.xp.asarray(
            np.unpackbits(bits)[:self.layer.outputs].astype(bool))
