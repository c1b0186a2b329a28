"""MemoryData: batches from arrays that the program hands over."""
from __future__ import annotations

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError
from ..engine.layer import Layer, exactly, register
from .transformer import Transformer


@register("MemoryData")
class MemoryDataLayer(Layer):
    """Batches from memory, one after the other, beginning anew at the end.

        layer { name: "data" type: "MemoryData" top: "data" top: "label"
                memory_data_param { batch_size: 8 channels: 1 height: 28 width: 28 } }

    Tops:  (batch_size, channels, height, width), and labels (batch_size).
    Filled with set_input_arrays(data, labels); the images go through transform_param.
    """

    bottoms, tops = exactly(0), exactly(2)
    counter = "batches"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.memory_data_param
        self.shape = (p.batch_size, p.channels, p.height, p.width)
        self.require(all(self.shape), f"batch_size, channels, height and width must be given and be more than 0, found {self.shape}", "memory_data_param")
        self.transformer = Transformer(self)
        self.require(not self.transformer.augments, "augmentation is for images of bytes; MemoryData has arrays of floats", "transform_param")
        self.transformer.check(self.shape[1], *self.shape[2:])
        top[0].reshape(*self.shape[:2], *self.transformer.size(*self.shape[2:]))
        top[1].reshape(self.shape[0])
        self.data: np.ndarray | None = None
        self.batches = 0

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Take `data` (n, channels, height, width) and `labels` (n): n a multiple of batch_size. Raises DataError."""
        data = np.ascontiguousarray(data, np.float32)
        labels = np.ascontiguousarray(labels, np.float32).reshape(len(data), -1)
        self.require(data.ndim == 4 and data.shape[1:] == self.shape[1:], f"takes arrays of shape (n, {', '.join(map(str, self.shape[1:]))}), found {data.shape}", error=DataError)
        self.require(labels.shape[1] == 1, f"takes one label for each item, found {labels.shape}", error=DataError)
        self.require(len(data) and len(data) % self.shape[0] == 0, f"takes a multiple of batch_size {self.shape[0]} items, found {len(data)}", error=DataError)
        self.data, self.labels, self.batches = data, labels[:, 0], 0

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(self.data is not None, "has no data: call set_input_arrays first", error=DataError)
        assert self.data is not None
        n = self.shape[0]
        start = self.batches * n % len(self.data)
        batch = np.empty(top[0].shape, np.float32)
        for i, (row, column, mirror) in enumerate(self.transformer.crops(n, *self.shape[2:], self.batches)):
            self.transformer.floats(self.data[start + i], batch, i, row, column, mirror)
        top[0].value.adopt(batch)
        top[1].value.adopt(self.labels[start:start + n].copy())
        self.batches += 1
