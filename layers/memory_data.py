"""MemoryData: batches from arrays that the program hands over."""
from __future__ import annotations

import logging

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError
from ..engine.layer import Layer, exactly, register

log = logging.getLogger("brew")


@register("MemoryData")
class MemoryDataLayer(Layer):
    """Batches from memory, one after the other, beginning anew at the end.

        layer { name: "data" type: "MemoryData" top: "data" top: "label"
                memory_data_param { batch_size: 8 channels: 1 height: 28 width: 28 } }

    Tops:  (batch_size, channels, height, width), and labels (batch_size).
    Filled with set_input_arrays(data, labels). transform_param is not applied to these arrays, as in Caffe (which
    applies it to Datums and OpenCV images only; those can be given from C++ alone).
    """

    bottoms, tops = exactly(0), exactly(2)
    counter = "batches"
    given = ("data", "labels")

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.memory_data_param
        self.shape = (p.batch_size, p.channels, p.height, p.width)
        self.require(all(self.shape), f"batch_size, channels, height and width must be given and be more than 0, found {self.shape}", "memory_data_param")
        top[0].reshape(*self.shape)
        top[1].reshape(self.shape[0])
        self.data: np.ndarray | None = None
        self.labels: np.ndarray | None = None
        self.batches = 0

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Take `data` (n, channels, height, width) and `labels` (n): n a multiple of batch_size. Raises DataError."""
        data, labels = np.ascontiguousarray(data, np.float32), np.ascontiguousarray(labels, np.float32)
        self.require(data.ndim == 4 and data.shape[1:] == self.shape[1:], f"takes arrays of shape (n, {', '.join(map(str, self.shape[1:]))}), found {data.shape}", error=DataError)
        fits = len(labels) == labels.size == len(data)
        self.require(fits, f"takes one label for each of the {len(data)} items, found {labels.shape}", error=DataError)
        self.require(len(data) and len(data) % self.shape[0] == 0, f"takes a multiple of batch_size {self.shape[0]} items, found {len(data)}", error=DataError)
        if self.param.HasField("transform_param"):
            log.warning('layer "%s" (type "MemoryData") does not apply transform_param to arrays', self.name)
        self.data, self.labels, self.batches = data, labels.reshape(-1), 0

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(self.data is not None, "has no data: call set_input_arrays first", error=DataError)
        assert self.data is not None and self.labels is not None
        n = self.shape[0]
        start = self.batches * n % len(self.data)
        for blob, values in zip(top, (self.data, self.labels)):
            blob.value.adopt(values[start:start + n].copy())       # layers in place must not change the caller's array
        self.batches += 1
