"""Images, blobs and records as arrays, and the preprocessing of deployed nets: caffe.io's functions on OpenCV and numpy."""
from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import cv2
import numpy as np

from ..engine.errors import ShapeError, WeightsError
from ..layers.decode import decode_image
from ..proto import BrewError, shape_of, to_array
from ..proto import brew_pb2 as pb
from ..tools.database import datum_to_array as datum_to_array
from .proto import caffe_pb2 as caffe_pb2

# ------------------------------------------------------------------------------------------------------ protocol messages


def blobproto_to_array(blob: pb.BlobProto, return_diff: bool = False) -> np.ndarray:
    """The values (or gradient) of a BlobProto, in its shape or its legacy num, channels, height, width. Raises ValueError if it has
    neither, or another number of values."""
    double, shape = blob.double_diff if return_diff else blob.double_data, shape_of(blob)
    try:
        data = np.array(double) if double else to_array(blob, return_diff).astype(float)
        if any(d < 0 for d in shape) or data.size != prod(shape):      # to numpy, -1 means whatever fits
            raise ValueError(f"a blob of shape {shape} has {data.size} values")
    except WeightsError as e:
        raise ValueError(str(e)) from None
    return data.reshape(shape)


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> pb.BlobProto:
    """A BlobProto of the array's shape."""
    blob = pb.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).flat)
    if diff is not None:
        blob.diff.extend(diff.astype(float).flat)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """Several arrays as one string."""
    vector = pb.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(arr) for arr in arraylist)
    return vector.SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:  # noqa: A002  (pycaffe's name)
    """The arrays of such a string."""
    vector = pb.BlobProtoVector()
    vector.ParseFromString(str)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> pb.Datum:
    """A record of an array (C, H, W): bytes if it is uint8, else floats. Raises ValueError for other shapes."""
    if arr.ndim != 3:
        raise ValueError(f"a Datum holds an array (channels, height, width); this one has the shape {arr.shape}")
    datum = pb.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = label
    return datum


# ---------------------------------------------------------------------------------------------------------------- images


def _pixels(filename: str | Path | IO[bytes]) -> np.ndarray:
    """A picture as OpenCV decodes it: (H, W) or (H, W, K) with B first. Raises BrewError if there is none."""
    try:                                                      # and not imread, which cannot say what is wrong
        if isinstance(filename, (str, os.PathLike)):
            raw = np.fromfile(filename, np.uint8)
        else:
            raw, filename = np.frombuffer(filename.read(), np.uint8), getattr(filename, "name", "this file")
    except OSError as e:
        raise BrewError(f"{filename}: {e.strerror}") from None
    image = decode_image(raw, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise BrewError(f"{filename}: not a picture that OpenCV reads")
    return image


def load_image(filename: str | Path | IO[bytes], color: bool = True) -> np.ndarray:
    """A picture as float32 (H, W, 3) RGB, or (H, W, 1) without `color`, values from 0 to 1: of a file by its name, or
    opened. Raises BrewError if there is none."""
    return _rgb(_pixels(filename), color)


def _rgb(image: np.ndarray, color: bool) -> np.ndarray:
    """What OpenCV decoded as float32 (H, W, 3) RGB, or (H, W, 1) without `color`, values from 0 to 1."""
    values = image.astype(np.float32) / (1 if image.dtype.kind == "f" else np.iinfo(image.dtype.str).max)
    values = values.reshape(*image.shape[:2], -1)
    if values.shape[2] >= 3:
        values = values[:, :, 2::-1]                          # BGR, perhaps with alpha
        if not color:
            values = values @ np.array([[0.2125], [0.7154], [0.0721]], np.float32)
    elif color:
        values = np.repeat(values[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(values[:, :, :3 if color else 1])


def resize_image(im: np.ndarray, new_dims: Any, interp_order: int = 1) -> np.ndarray:
    """An array (H, W, K) as float32 (height, width, K) for new_dims = (height, width): nearest (interp_order 0), bilinear (1) or cubic."""
    interpolation = {0: cv2.INTER_NEAREST, 1: cv2.INTER_LINEAR}.get(interp_order, cv2.INTER_CUBIC)
    height, width = int(new_dims[0]), int(new_dims[1])
    planes = np.asarray(im, np.float32).reshape(*im.shape[:2], -1)
    if planes.shape[:2] == (height, width):
        return planes.copy()
    parts = [cv2.resize(np.ascontiguousarray(planes[:, :, i:i + 4]), (width, height), interpolation=interpolation).reshape(height, width, -1)
             for i in range(0, planes.shape[2], 4)]            # how many more OpenCV takes depends on its version
    return np.concatenate(parts, axis=2)


def oversample(images: Any, crop_dims: Any) -> np.ndarray:
    """Ten crops of each image (H, W, K): the four corners and the centre, and these mirrored: (10 N, height, width, K).

    Raises ShapeError if the crop is larger than the images.
    """
    shape, (height, width) = np.array(images[0].shape), (int(d) for d in crop_dims)
    if height > shape[0] or width > shape[1]:
        raise ShapeError(f"crops of {height} x {width} do not fit into images of {shape[0]} x {shape[1]}")
    tops = [(y, x) for y in (0, shape[0] - height) for x in (0, shape[1] - width)]
    tops.append(((shape[0] - height) // 2, (shape[1] - width) // 2))
    crops = np.empty((10 * len(images), height, width, shape[-1]), np.float32)
    for i, image in enumerate(images):
        for k, (y, x) in enumerate(tops):
            crops[10 * i + k] = image[y:y + height, x:x + width]
        crops[10 * i + 5:10 * i + 10] = crops[10 * i:10 * i + 5, :, ::-1]
    return crops


def _imread(fname: str | Path | IO[bytes], as_gray: bool = False) -> np.ndarray:
    """skimage.io.imread: the file's values, RGB; grey as (H, W)."""
    image = _pixels(fname)
    if as_gray and image.ndim == 3:
        return _rgb(image, color=False)[:, :, 0]
    return image if image.ndim == 2 else np.ascontiguousarray(image[:, :, [2, 1, 0, 3][:image.shape[2]]])


def _resize(image: np.ndarray, output_shape: Sequence[int], order: int = 1, preserve_range: bool = False, **_: Any
            ) -> np.ndarray:
    """skimage.transform.resize: bytes become values from 0 to 1, unless `preserve_range`."""
    values = image if preserve_range else _as_float(image)
    return resize_image(values, output_shape, order).reshape(*output_shape[:2], *image.shape[2:])


def _as_float(image: np.ndarray) -> np.ndarray:
    """skimage.img_as_float: integers as parts of the largest one."""
    return image / np.iinfo(image.dtype).max if image.dtype.kind in "ui" else np.asarray(image, float)


def __getattr__(name: str) -> Any:
    """`caffe.io.skimage`, which Caffe's io imports: the real one if it is installed, else what scripts use of it."""
    if name != "skimage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        for part in ("io", "transform"):
            importlib.import_module(f"skimage.{part}")
        return importlib.import_module("skimage")
    except ImportError:
        return SimpleNamespace(io=SimpleNamespace(imread=_imread), transform=SimpleNamespace(resize=_resize),
                               img_as_float=_as_float)


class Transformer:
    """Turns images into what a net's inputs expect, and back. `inputs` is {blob: its shape (N, K, H, W)}.

    preprocess does, in this order, what was set: resize to the input's height and width, transpose, swap channels, scale
    (raw_scale), subtract the mean, scale (input_scale). Raises BrewError for an input that is not one.
    """

    def __init__(self, inputs: dict[str, Sequence[int]]):
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _check(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise BrewError(f'"{in_}" is none of the inputs: {sorted(self.inputs)}')

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """An image (H', W', K) as float32 (K, H, W) for the input `in_`."""
        self._check(in_)
        values = np.asarray(data).astype(np.float32, copy=False)
        size = tuple(self.inputs[in_][2:])
        if values.shape[:2] != size:
            values = resize_image(values, size)
        if self.transpose.get(in_) is not None:
            values = values.transpose(self.transpose[in_])
        if self.channel_swap.get(in_) is not None:
            values = values[list(self.channel_swap[in_]), :, :]
        if self.raw_scale.get(in_) is not None:
            values = values * np.float32(self.raw_scale[in_])
        if self.mean.get(in_) is not None:
            values = values - self.mean[in_]
        if self.input_scale.get(in_) is not None:
            values = values * np.float32(self.input_scale[in_])
        return values

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image of what preprocess made: all steps but the resizing, backwards."""
        self._check(in_)
        values = np.array(data, np.float32).squeeze()
        if self.input_scale.get(in_) is not None:
            values = values / np.float32(self.input_scale[in_])
        if self.mean.get(in_) is not None:
            values = values + self.mean[in_]
        if self.raw_scale.get(in_) is not None:
            values = values / np.float32(self.raw_scale[in_])
        if self.channel_swap.get(in_) is not None:
            values = values[np.argsort(self.channel_swap[in_]), :, :]
        if self.transpose.get(in_) is not None:
            values = values.transpose(np.argsort(self.transpose[in_]))
        return values

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes, as (2, 0, 1) for images (H, W, K)."""
        self._check(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise ShapeError(f"the order of {len(self.inputs[in_]) - 1} axes is needed, found {tuple(order)}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels, as (2, 1, 0) from RGB to BGR; after transposing, channels are the first axis."""
        self._check(in_)
        if len(order) != self.inputs[in_][1]:
            raise ShapeError(f"the order of {self.inputs[in_][1]} channels is needed, found {tuple(order)}")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean: 255 for images from 0 to 1 and nets trained on bytes."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What to subtract: (K) for each channel, (H, W) or (K, H, W); another height and width are resized."""
        self._check(in_)
        mean, shape = np.asarray(mean, np.float32), tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            if mean.shape[0] not in (1, shape[0]):
                raise ValueError(f"the mean has {mean.shape[0]} channels, the input {shape[0]}")
            mean = mean[:, None, None]
        else:
            if mean.ndim == 2:
                mean = mean[None]
            if mean.ndim != 3 or mean.shape[0] not in (1, shape[0]):
                raise ValueError(f"the mean has the shape {mean.shape}, the input {shape}")
            if mean.shape[1:] != shape[1:]:
                mean = resize_image(mean.transpose(1, 2, 0), shape[1:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after the mean."""
        self._check(in_)
        self.input_scale[in_] = scale
