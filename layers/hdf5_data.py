"""HDF5Data: batches of rows from HDF5 files."""
from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError, Position, read_bytes
from ..engine.layer import Layer, at_least, exactly, register
from ..engine.random import permutation
from ..engine.resources import check_memory
from ..engine.store import INT32
from ..proto import find_file
from .prefetch import BatchLayerState, Prefetcher
from .samplers import Shuffled


@register("HDF5Data")
class HDF5DataLayer(BatchLayerState, Layer):
    """Rows of the datasets that have the tops' names, whole files at a time; batches go on across files.

        layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "train.txt" batch_size: 64 } }

    Tops:  (batch_size, ...), one for each dataset; all datasets of a file have the same number of rows.
    source    a text file that lists HDF5 files. The tops have the shapes of the first file's rows; rows of the others
              must have as many values, in this or another shape, as in Caffe: (N) and (N, 1) may be mixed.
    shuffle   the files in a new order each epoch, and the rows within each file.
    """

    bottoms, tops = exactly(0), at_least(1)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.hdf5_data_param
        self.require(not self.param.HasField("transform_param"), "transform_param is for images: scale the HDF5 data when you write them", "transform_param")
        self.require(p.batch_size > 0, "batch_size must be given, and be more than 0", "hdf5_data_param.batch_size")
        self.source, self.batch_size = find_file(p.source, self.param.position.file), p.batch_size
        names = read_bytes(self.source, "this list of HDF5 files", DataError).decode("utf-8", "surrogateescape").split()
        self.require(names, f"the list {self.source} names no files", "hdf5_data_param.source", DataError)
        self.files = [find_file(name, self.source) for name in names]
        self.load = lru_cache(maxsize=2)(self._load)
        self.shapes: list[tuple[int, ...]] = []                        # of a row of each top
        self.rows = [self._count(f) for f in range(len(self.files))]
        sampler = Shuffled(sum(self.rows), self.batch_size, lambda: self.seed, self._order)
        # a fork holds h5py's lock, which _make waits for
        self.prefetcher = Prefetcher(self.shard(sampler), self._make, 2, delays_fork=False)
        for blob, shape in zip(top, self.shapes):
            blob.reshape(self.batch_size, *shape)

    def _open(self, file: int) -> Any:
        import h5py
        try:
            return h5py.File(self.files[file], "r")
        except OSError as e:
            raise DataError(f"this HDF5 file cannot be read: {e}\n  read by layer \"{self.name}\"", Position(self.files[file])) from None

    def _check(self, file: int, condition: object, message: str) -> None:
        if not condition:
            raise DataError(f'{message}\n  read by layer "{self.name}"', Position(self.files[file]))

    def _count(self, file: int) -> int:
        """How many rows a file has. Raises an error unless it has all datasets, with rows as in the first file."""
        shapes = {}
        with self._open(file) as h5:
            for name in self.param.top:
                if name not in h5:
                    raise DataError(f'has no dataset "{name}", which layer "{self.name}" has as a top; it has {", ".join(h5)}', Position(self.files[file]))
                kind = getattr(getattr(h5[name], "dtype", None), "kind", "")
                self._check(file, kind, f'"{name}" is a group, not a dataset')
                self._check(file, kind in "fiub", f'its dataset "{name}" is not numeric: its type is {h5[name].dtype}')
                shapes[name] = h5[name].shape or ()
            check_memory(self.param, 4 * sum(prod(shape) for shape in shapes.values()), f"{self.files[file]}, of which every row is read,")
        counts = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
        if len(set(counts.values())) != 1 or not min(counts.values()):
            raise DataError(f"its datasets need the same number of rows, at least one; found {counts}", Position(self.files[file]))
        self.shapes = self.shapes or [shape[1:] for shape in shapes.values()]
        for (name, shape), first in zip(shapes.items(), self.shapes):
            self.require(prod(shape[1:]) == prod(first), f'the rows of "{name}" have the shape {first} in '
                         f"{self.files[0]}, and {shape[1:]} in {self.files[file]}", "hdf5_data_param.source")
        return next(iter(counts.values()))

    def _load(self, file: int) -> list[np.ndarray]:
        """The file's rows, in the shapes of the tops."""
        try:
            with self._open(file) as h5:
                found = [as_numbers(h5[name][()]) for name in self.param.top]
            return [values.reshape(self.rows[file], *shape) for values, shape in zip(found, self.shapes)]
        except (OSError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"this HDF5 file cannot be read, or has changed since the net was built: {e}\n"
                            f'  read by layer "{self.name}"', Position(self.files[file])) from None

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch: for each place (file, row within that file)."""
        order = np.arange(len(self.files))
        shuffle = self.param.hdf5_data_param.shuffle
        if shuffle:
            order = permutation(seed, f"{self.name}/files", epoch, len(self.files))
        files = np.concatenate([np.full(self.rows[f], f) for f in order])
        rows = np.concatenate([permutation(seed, f"{self.name}/rows{f}", epoch, self.rows[f]) if shuffle else np.arange(self.rows[f]) for f in order])
        return np.stack([files, rows], 1)

    def _make(self, batch: int, places: np.ndarray) -> list[np.ndarray]:
        """For each top the rows at these places, as int32 where the files hold whole numbers."""
        rows: list[list[np.ndarray]] = [[] for _ in self.shapes]
        for file, row in places.tolist():
            for chosen, values in zip(rows, self.load(file)):
                chosen.append(values[row])
        return [np.array(chosen, INT32 if all(row.dtype == INT32 for row in chosen) else np.float32) for chosen in rows]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, data in zip(top, self.prefetcher.next()):
            blob.reshape(*data.shape)
            blob.value.adopt(data)


def as_numbers(values: np.ndarray) -> np.ndarray:
    """An array as int32 if it holds whole numbers that fit, which float32 would round from 2^24 on; else as float32."""
    if values.dtype.kind in "iub" and (not values.size or -2**31 < values.min() and values.max() < 2**31):
        return values.astype(INT32)
    return np.asarray(values, np.float32)
