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
    """Sparse rows and their labels from a database that `brew convert_xc` or `brew data` wrote, read ahead by a thread.

        layer { name: "data" type: "SparseData" top: "value" top: "index" top: "label" include { phase: TRAIN }
                sparse_data_param { source: "bibtex_train_lmdb" batch_size: 128 shuffle: true } }

    Tops:  values (batch_size, S); the indices of their features (batch_size, S); labels (batch_size, L), optional.
           Indices and labels are whole numbers from 0, rising in each row. S and L are variable axes: the width of the
           batch's widest row, at least 1. Shorter rows are padded: values by 0, indices and labels by -1.

    The first two tops are the pair of bottoms that InnerProduct takes with `input_dim`; losses with `label_lists: true`
    take the third. Indices and labels are stored as int32: floats would round them above 2^24.

    source       the database's folder, relative to the working directory or to the prototxt.
    batch_size   rows.     prefetch   batches read ahead, default 4.
    shuffle      a new order of all rows in each epoch; otherwise the order of the keys. Files of this kind are often
                 sorted by label: shuffle in TRAIN, and in TEST where it sees only a part of the rows.
    """

    bottoms, tops = exactly(0), between(2, 3)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.sparse_data_param
        self.require(not self.param.HasField("transform_param"), "transform_param is for images", "transform_param")
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
            key = keys[number].decode(errors="replace")
            raise DataError(f'record {key!r} cannot be used: {why}\n  read by layer "{self.name}"',
                            Position(self.source))
        n, width = len(records), max(features, 1)
        return (n, width), (n, width), (n, max(labels, 1))

    def _make(self, batch: int, places: np.ndarray) -> Batch:
        """The rows at these places."""
        keys, records = self.database.read(places, self.walk)
        value, index, label = self.shapes(keys, records)
        check_memory(self.param, 8 * value[0] * value[1] + 4 * label[0] * label[1],
                     f"a batch with a row of {value[1]} features")
        made = np.empty(value, np.float32), np.empty(index, INT32), np.empty(label, INT32)
        cpu.join_rows(records, *made)
        return made

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, data in zip(top, self.prefetcher.next()):
            blob.reshape(*data.shape)
            blob.value.adopt(data)
