"""SparseData: batches of rows that have few of many features, and any number of labels."""
from __future__ import annotations

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError, Position
from ..engine.layer import Layer, between, exactly, register
from ..engine.resources import check_memory
from ..engine.store import INT32
from ..kernels import cpu
from ..proto import find_file
from .database import open_database
from .prefetch import BatchLayerState, Prefetcher
from .samplers import Sampler, Sequential, Shuffled, shuffles

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]        # values (N, S), indices (N, S), labels (N, L)


@register("SparseData")
class SparseDataLayer(BatchLayerState, Layer):
    """Sparse rows and their labels, from a database that `brew convert_xc` or `brew data` wrote, read ahead by a thread.

        layer { name: "data" type: "SparseData" top: "value" top: "index" top: "label" include { phase: TRAIN }
                sparse_data_param { source: "bibtex_train_lmdb" batch_size: 128 shuffle: true } }

    Tops:  values (batch_size, S); indices of their features (batch_size, S), whole numbers from 0 on, rising in each row;
           labels (batch_size, L), whole numbers from 0 on, rising; the labels may be left out. S and L are variable axes: as
           wide as the batch's widest row, at least 1. Shorter rows are padded by values of 0, indices and labels of -1.

    The first two tops are the pair of bottoms that InnerProduct takes with `input_dim`; label lists are what losses with
    `label_lists: true` take. Indices and labels are stored as int32, so that none is rounded, as floats from 2^24 on are.

    source       the database's folder, seen from the working directory or from the prototxt.
    batch_size   rows.     prefetch   batches read ahead, default 4.
    shuffle      a new order of all rows in each epoch; else the order of the keys, again and again. Files of this kind are
                 often sorted by label: shuffle for TRAIN, and where TEST sees a part of the rows only.
    """

    bottoms, tops = exactly(0), between(2, 3)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.sparse_data_param
        self.require(not self.param.HasField("transform_param"), "transform_param is for images, and rows are taken as they are",
                     "transform_param")
        self.require(p.batch_size > 0, "batch_size must be given, and be more than 0", "sparse_data_param.batch_size")
        self.require(p.source, "source must name a database", "sparse_data_param")
        self.batch_size, self.shuffle = p.batch_size, p.shuffle
        self.source = find_file(p.source, self.param.position.file)
        self.database = open_database(self.source)
        (key, record), _ = self.database.first()
        sampler = self.shard(self.sampler())
        self.walk = type(sampler) is Sequential          # a batch begins where the one before it ended
        self.prefetcher = Prefetcher(sampler, self._make, p.prefetch)
        shapes = self.shapes([key], [record])
        for blob, shape in zip(top, shapes):
            blob.variable = (1,)
            blob.reshape(self.batch_size, shape[1])

    def sampler(self) -> Sampler:
        """Draws the places of rows."""
        size = self.database.size
        if self.shuffle:
            return Shuffled(size, self.batch_size, lambda: self.seed, shuffles(f"{self.name}/shuffle", size))
        return Sequential(size, self.batch_size)

    def shapes(self, keys: list[bytes], records: list[bytes]) -> tuple[tuple[int, int], ...]:
        """Shapes of the tops that these records fill. Raises DataError for the first that is damaged, or is none."""
        labels, features, number, why = cpu.widest_row(records)
        if why:
            raise DataError(f"record {keys[number].decode(errors='replace')!r} cannot be used: {why}\n  read by layer \"{self.name}\"",
                            Position(self.source))
        n, width = len(records), max(features, 1)
        return (n, width), (n, width), (n, max(labels, 1))

    def _make(self, batch: int, places: np.ndarray) -> Batch:
        """The rows at these places."""
        keys, records = self.database.read(places, self.walk)
        value, index, label = self.shapes(keys, records)
        check_memory(self.param, 8 * value[0] * value[1] + 4 * label[0] * label[1], f"a batch whose widest row has {value[1]} features")
        made = np.empty(value, np.float32), np.empty(index, INT32), np.empty(label, INT32)
        cpu.join_rows(records, *made)
        return made

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, data in zip(top, self.prefetcher.next()):
            blob.reshape(*data.shape)
            blob.value.adopt(data)
