"""The data transformer: augmentation, crop, mirror, subtract the mean, scale (message TransformationParameter)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.errors import DataError, NetError
from ..engine.random import words
from ..kernels import cpu
from ..proto import brew_pb2 as pb
from ..proto import find_file, read_binary, to_array
from .augment import Augmenter
from .decode import decode_image


@dataclass(frozen=True)
class Normalize:
    """Makes floats of a batch of bytes that only were cropped and mirrored: out = (pixel - mean) * scale. Whoever reads
    the batch first calls it, on the device that reads: so batches wait, and travel, as bytes."""

    crops: np.ndarray                        # (n, 3): top, left and mirror of each image
    mean: np.ndarray
    scale: float
    shape: tuple[int, ...]                   # (C, H, W) of the result
    size: tuple[int, int]                    # (height, width) of the images before the crop

    def __call__(self, pixels: Any, out: Any, kernels: Any) -> None:
        kernels.normalize(pixels, self.crops, self.mean, self.scale, out, *self.shape, *self.size)


class Transformer:
    """What a data layer's transform_param does to each image: out = (pixel - mean) * scale, after crop and mirror.

    In TRAIN the crop is anywhere, in TEST in the middle; mirroring is by chance in both, as in Caffe. Which crop an image
    gets is a function of (seed, layer, batch, place in the batch).
    """

    def __init__(self, layer: Any):
        self.layer, self.param = layer, layer.param.transform_param
        p = self.param
        self.crop, self.scale, self.train = p.crop_size, p.scale, layer.phase == pb.TRAIN
        layer.require(not (p.force_color and p.force_gray), "force_color and force_gray exclude each other", "transform_param.force_gray")
        layer.require(not (p.HasField("mean_file") and p.mean_value), "mean_file and mean_value exclude each other", "transform_param.mean_file")
        self.mean = np.asarray(p.mean_value, np.float32)
        self.mean_shape: tuple[int, ...] = ()
        if p.HasField("mean_file"):
            path = find_file(p.mean_file, layer.param.position.file)
            self.mean = to_array(read_binary(path, pb.BlobProto(), "mean file"))
            self.mean_shape = self.mean.shape[-3:]
        self.augmenter = Augmenter(layer, self.mean)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result."""
        return (self.crop, self.crop) if self.crop else self.augmenter.size(height, width)

    def check(self, channels: int, height: int, width: int) -> None:
        """Raise an error about the layer unless images of this size can be transformed."""
        require = self.layer.require
        height, width = self.augmenter.size(height, width)
        padding = len(self.param.resize_param.pad_value)
        require(padding in (0, 1, channels), f"pad_value is given once or for each of the {channels} channels, "
                f"found {padding}", "transform_param.resize_param")
        require(self.crop <= min(height, width), f"crop_size {self.crop} is larger than the image, {height} x {width} pixels", "transform_param.crop_size", DataError)
        if self.mean_shape:
            require(self.mean_shape == (channels, height, width), f"the mean file is for images of shape {self.mean_shape}, these have {(channels, height, width)}", "transform_param.mean_file", DataError)
        else:
            grey = "\n  transform_param { force_color: true } makes colour images of grey ones" if channels == 1 else ""
            require(self.mean.size in (0, 1, channels), f"mean_value is given once or for each of the {channels} channels, found {self.mean.size}{grey}",
                    "transform_param.mean_value", NetError)

    def crops(self, n: int, height: int, width: int, batch: int) -> np.ndarray:
        """(n, 3) int32: top, left and mirror (0 or 1) of each image of the batch."""
        out_h, out_w = self.size(height, width)
        height, width = self.augmenter.size(height, width)
        random = words(self.layer.seed, f"{self.layer.name}/transform", batch, 3 * n).reshape(n, 3)
        crops = np.empty((n, 3), np.int32)
        if self.train:
            crops[:, 0] = random[:, 0] % np.uint32(height - out_h + 1)
            crops[:, 1] = random[:, 1] % np.uint32(width - out_w + 1)
        else:
            crops[:, 0], crops[:, 1] = (height - out_h) // 2, (width - out_w) // 2
        crops[:, 2] = (random[:, 2] & 1) * bool(self.param.mirror)
        return crops

    def records(self, records: list[bytes], out: np.ndarray, labels: np.ndarray | None, crops: np.ndarray, height: int, width: int) -> tuple[list[int], list[int]]:
        """Transform all Datums of a batch that hold pixels; returns the places of (encoded, unusable) records. Of
        bytes, out gets the crops alone, and records of floats are unusable."""
        if out.dtype == np.uint8:
            return cpu.crop_records(records, out, labels, crops, height, width)  # type: ignore[no-any-return]
        return cpu.transform_records(records, out, labels, crops, height, width, self.mean, self.scale)  # type: ignore[no-any-return]

    def normalize(self, crops: np.ndarray, images: np.ndarray, height: int, width: int) -> Normalize:
        """What makes floats of `images` (n, C, H, W), bytes, which crops() cut from images of height x width."""
        return Normalize(crops, self.mean, self.scale, images.shape[1:], self.augmenter.size(height, width))

    def alike(self, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        """Whether images of these shapes (H, W, C) may be in one batch."""
        return a[2:] == b[2:] and self.augmenter.size(a[0], a[1]) == self.augmenter.size(b[0], b[1])

    @property
    def augments(self) -> bool:
        """Whether images are changed before the crop, so that they are needed as images."""
        return self.augmenter.active

    def image(self, image: np.ndarray, out: np.ndarray, i: int, crop: np.ndarray, batch: int) -> None:
        """Transform a decoded image (H, W, C), the i-th of a batch, into out[i]; `crop` is its row of crops(). Of
        bytes, out gets the crop alone, which normalize() is for."""
        row, column, mirror = crop
        if out.dtype == np.uint8:
            cpu.crop_image(image, out, i, int(row), int(column), bool(mirror))
            return
        if not self.augments:
            cpu.transform_image(image, out, i, int(row), int(column), bool(mirror), self.mean, self.scale)
            return
        draw = self.augmenter.draw(batch, i)
        cpu.transform_image(self.augmenter.apply(image, draw), out, i, int(row), int(column), bool(mirror), self.mean, self.scale)
        self.augmenter.finish(out[i], draw)

    def decode(self, data: bytes) -> np.ndarray | None:
        """The pixels (H, W, C) of an image file, channels in BGR order; None if it is no image that OpenCV reads."""
        import cv2
        p = self.param
        flag = cv2.IMREAD_COLOR if p.force_color else cv2.IMREAD_GRAYSCALE if p.force_gray else cv2.IMREAD_UNCHANGED
        image = decode_image(data, flag)
        if image is None or image.dtype != np.uint8:
            return None
        return np.ascontiguousarray(image.reshape(*image.shape[:2], -1)[:, :, :3])
