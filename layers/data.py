"""Data: batches of records from a database."""
from __future__ import annotations

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import BrewError, DataError, Position
from ..engine.layer import Layer, between, exactly, register
from ..kernels import cpu
from ..proto import find_file
from .database import open_database
from .prefetch import BatchLayerState, Prefetcher
from .samplers import Sampler, Sequential, Shuffled, shuffles
from .transformer import Normalize, Transformer


@register("Data")
class DataLayer(BatchLayerState, Layer):
    """Images and labels from an LMDB of Datum records, or a LevelDB with the extra [leveldb], read ahead by a thread.

        layer { name: "mnist" type: "Data" top: "data" top: "label" transform_param { scale: 0.00390625 }
                data_param { source: "mnist_train_lmdb" batch_size: 64 backend: LMDB } }

    Tops:  (batch_size, C, H, W), or the crop's size; and labels (batch_size).

    source       the database's folder, seen from the working directory or from the prototxt; what lies there says which of
                 the two it is, whatever `backend` says.
    batch_size   records.     prefetch   batches read ahead, default 4.
    shuffle      a new order of all records in each epoch (not in Caffe); else the order of the keys, again and again.
    Images may be raw or encoded (JPEG, PNG); transform_param says what is done to them: in TRAIN expand_param,
    random_resized_crop, max_rotation_angle, distort_param, rand_augment, then crop, mirror, mean and scale, then cutout; in TEST
    the crop's middle. resize_param is for both.
    """

    bottoms, tops = exactly(0), between(1, 2)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.data_param
        self.require(p.batch_size > 0, "batch_size must be given, and be more than 0", "data_param.batch_size")
        self.require(p.HasField("source"), "source must name a database", "data_param")
        self.batch_size, self.shuffle = p.batch_size, p.shuffle
        self.source = find_file(p.source, self.param.position.file)
        self.transformer = Transformer(self)
        self.database = open_database(self.source)
        record, encoded = self.database.first()
        channels, height, width = self._measure(*record)
        self.transformer.check(channels, height, width)
        sampler = self.shard(self.sampler())
        self.walk = type(sampler) is Sequential          # a batch begins where the one before it ended
        self.prefetcher = Prefetcher(sampler, self._make, p.prefetch,
                                     workers=2 if encoded or self.transformer.augments else 1)
        top[0].reshape(self.batch_size, channels, *self.transformer.size(height, width))
        if len(top) > 1:
            top[1].reshape(*self.label_shape())

    def label_shape(self) -> tuple[int, ...]:
        return (self.batch_size,)

    def datum(self, record: bytes) -> bytes:
        """The Datum that a record holds, or is. Raises ValueError."""
        return record

    def _measure(self, key: bytes, record: bytes) -> tuple[int, int, int]:
        """(channels, height, width) of a record, decoded if it must be."""
        try:
            channels, height, width, _, encoded, _, length, floats = cpu.parse_datum(self.datum(record))
        except ValueError as e:
            raise self.broken(key, str(e)) from None
        if encoded:
            height, width, channels = self.image(key, record).shape
        elif channels * height * width not in (length, floats) or min(channels, height, width) < 1:
            raise self.broken(key, f"its image has the shape {(channels, height, width)}, and {length or floats} values")
        return channels, height, width

    def image(self, key: bytes, record: bytes) -> np.ndarray:
        """The pixels (H, W, C) of a record, decoded if it must be."""
        record = self.datum(record)
        channels, height, width, _, encoded, start, length, _ = cpu.parse_datum(record)
        if encoded:
            image = self.transformer.decode(record[start:start + length])
            if image is None:
                raise self.broken(key, "it is encoded, and holds no image that can be decoded")
            return image
        if length != channels * height * width or min(channels, height, width) < 1:
            raise self.broken(key, "it holds no bytes of pixels, as augmentation needs")
        return np.ascontiguousarray(np.frombuffer(record, np.uint8, length, start).reshape(channels, height, width).transpose(1, 2, 0))

    def check(self, key: bytes, channels: int, height: int, width: int) -> None:
        """Raise DataError, with the record's key, unless the transformer takes images of this size."""
        try:
            self.transformer.check(channels, height, width)
        except BrewError as e:
            raise self.broken(key, str(e)) from None

    def broken(self, key: bytes, what: str) -> DataError:
        return DataError(f"record {key.decode(errors='replace')!r} cannot be used: {what}\n  read by layer \"{self.name}\"", Position(self.source))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        images, labels, normalize = self.prefetcher.next()
        top[0].reshape(*images.shape)
        top[0].value.adopt(images, normalize)
        if len(top) > 1:
            top[1].reshape(*labels.shape)
            top[1].value.adopt(labels)

    def sampler(self) -> Sampler:
        """Draws the places of records."""
        size = self.database.size
        if self.shuffle:
            return Shuffled(size, self.batch_size, lambda: self.seed, shuffles(f"{self.name}/shuffle", size))
        return Sequential(size, self.batch_size)

    def _make(self, batch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, Normalize | None]:
        """The records at these places: (images, labels, what makes floats of the images if they are bytes)."""
        n, (keys, records) = self.batch_size, self.database.read(places, self.walk)
        channels, height, width = self._measure(keys[0], records[0])
        self.check(keys[0], channels, height, width)
        crops = self.transformer.crops(n, height, width, batch)
        shape = n, channels, *self.transformer.size(height, width)
        floats = self.transformer.augments or cpu.parse_datum(self.datum(records[0]))[7]
        images, labels = np.empty(shape, np.float32 if floats else np.uint8), np.empty(n, np.float32)
        if self.transformer.augments:
            rest = list(range(n))
            labels[...] = [self._label(key, record) for key, record in zip(keys, records)]
        else:
            rest, unusable = self.transformer.records(records, images, labels, crops, height, width)
            if unusable and not floats:          # or some hold floats
                images = np.empty(shape, np.float32)
                rest, unusable = self.transformer.records(records, images, labels, crops, height, width)
            for i in unusable:
                raise self.broken(keys[i], self._why(records[i], channels, height, width))
        for i in rest:
            image = self.image(keys[i], records[i])
            if not self.transformer.alike(image.shape, (height, width, channels)):
                raise self.broken(keys[i], f"its image is {image.shape[0]} x {image.shape[1]} x {image.shape[2]}, the batch began with {height} x {width} x {channels}")
            self.transformer.image(image, images, i, crops[i], batch)
        bytes_only = images.dtype == np.uint8
        return images, labels, self.transformer.normalize(crops, images, height, width) if bytes_only else None

    def _label(self, key: bytes, record: bytes) -> float:
        try:
            return float(cpu.parse_datum(record)[3])
        except ValueError as e:
            raise self.broken(key, str(e)) from None

    def _why(self, record: bytes, channels: int, height: int, width: int) -> str:
        try:
            c, h, w, _, _, _, length, floats = cpu.parse_datum(record)
        except ValueError as e:
            return str(e)
        if (c, h, w) != (channels, height, width):
            return f"its image has the shape {(c, h, w)}, the batch began with {(channels, height, width)}"
        return f"its image has the shape {(c, h, w)}, and {length or floats} values"
