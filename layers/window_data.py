"""WindowData: windows of images, foreground and background mixed, for training detectors."""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError, Position, read_bytes
from ..engine.layer import Layer, exactly, register
from ..engine.random import words
from ..proto import find_file
from .decode import read_image
from .prefetch import BatchLayerState, Prefetcher
from .samplers import Sampler
from .transformer import Transformer


class Draws(Sampler):
    """Two random words (n, 2) uint32 for each window: which one, and whether it is mirrored."""

    def __init__(self, layer: Layer, batch_size: int):
        self.layer, self.batch_size = layer, batch_size

    def draw(self, number: int) -> np.ndarray:
        layer, n = self.layer, self.batch_size
        return words(layer.seed, f"{layer.name}/windows", number, 2 * n).reshape(n, 2)


@register("WindowData")
class WindowDataLayer(BatchLayerState, Layer):
    """Windows of images warped to one size, drawn with replacement: background first, then foreground (Girshick et al. 2014).

        layer { name: "data" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 227 mirror: true }
                window_data_param { source: "windows.txt" batch_size: 128 fg_fraction: 0.25 context_pad: 16 } }

    Tops:  (batch_size, 3, crop_size, crop_size), BGR; and labels (batch_size), 0 for background.

    source         a list of blocks: `# number`, path, channels, height, width, how many windows, then for each window
                   `class overlap x1 y1 x2 y2` in pixels, ends included.
    fg_threshold   overlap from which a window is foreground, default 0.5; its class must then be more than 0.
    bg_threshold   overlap below which it is background, default 0.5; windows in between are not used.
    fg_fraction    share of foreground in a batch, default 0.25.
    context_pad    pixels of surroundings on each side of the warped window, default 0.
    crop_mode      "warp" (default), or "square": the longer side on both axes.
    What lies outside of the image is 0, that is, the mean. mirror, mean and (unless window_data_param has one) scale are
    transform_param's.
    """

    bottoms, tops = exactly(0), exactly(2)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, t = self.param.window_data_param, self.param.transform_param
        self.crop = t.crop_size or p.crop_size
        self.require(self.crop > 0, "transform_param.crop_size must be given, and be more than 0", "transform_param")
        self.require(p.batch_size > 0, "batch_size must be given, and be more than 0", "window_data_param.batch_size")
        self.require(p.crop_mode in ("warp", "square"), f'crop_mode is "warp" or "square", found "{p.crop_mode}"', "window_data_param.crop_mode")
        self.require(2 * p.context_pad < self.crop, f"context_pad {p.context_pad} leaves nothing of crop_size {self.crop}", "window_data_param.context_pad")
        self.transformer = Transformer(self)
        self.require(not self.transformer.augments, "augmentation is for whole images; WindowData has crop and mirror", "transform_param")
        self.scale = np.float32(p.scale if p.HasField("scale") else t.scale)
        self.mean = self._mean()
        self.foreground: list[tuple[str, int, tuple[int, ...]]] = []        # (path, label, x1 y1 x2 y2)
        self.background: list[tuple[str, int, tuple[int, ...]]] = []
        self._read(find_file(p.source, self.param.position.file))
        self.foregrounds = int(p.batch_size * p.fg_fraction)
        for kind, windows, wanted in (("foreground", self.foreground, self.foregrounds), ("background", self.background, p.batch_size - self.foregrounds)):
            self.require(windows or not wanted, f"the list has no {kind} windows, and a batch needs {wanted}", "window_data_param.source", DataError)
        self.load = lru_cache(maxsize=None if p.cache_images else 16)(self._load)
        self.prefetcher = Prefetcher(self.shard(Draws(self, p.batch_size)), self._make, self.param.data_param.prefetch,
                                     workers=2)
        top[0].reshape(p.batch_size, 3, self.crop, self.crop)
        top[1].reshape(p.batch_size)

    def _mean(self) -> np.ndarray:
        """The mean of each value of a window: the middle of the mean file, or a value for each channel."""
        t = self.transformer
        if not t.mean_shape:
            values = t.mean.size
            self.require(values in (0, 1, 3), f"mean_value is given once or for each of the 3 channels, found {values}",
                         "transform_param.mean_value")
            return t.mean.reshape(-1, 1, 1) if t.mean.size else np.zeros((1, 1, 1), np.float32)
        offset = (t.mean_shape[1] - self.crop) // 2
        fits = offset >= 0 and t.mean_shape[0] == 3 and t.mean_shape[1] == t.mean_shape[2]
        self.require(fits, "the mean file must have 3 channels, be square and at least as large as crop_size "
                     f"{self.crop}, found {t.mean_shape}", "transform_param.mean_file", DataError)
        return t.mean.reshape(t.mean_shape)[:, offset:offset + self.crop, offset:offset + self.crop]

    def _read(self, source: str) -> None:
        """Fill the lists of foreground and background windows."""
        p = self.param.window_data_param
        lines = iter(enumerate(read_bytes(source, "this list of windows", DataError).decode("utf-8", "replace").splitlines(), 1))
        number = 0
        try:
            for number, line in lines:
                if not line.strip():
                    continue
                if not line.startswith("#"):
                    raise ValueError
                number, path = next(lines)
                for _ in range(3):                                          # channels, height, width: the image itself tells
                    number, line = next(lines)
                number, count = next(lines)
                for _ in range(int(count)):
                    number, line = next(lines)
                    label, overlap, *box = line.split()
                    window = (p.root_folder + path.strip(), int(label), tuple(int(v) for v in box))
                    if len(box) != 4 or (float(overlap) >= p.fg_threshold and int(label) <= 0):
                        raise ValueError
                    if float(overlap) >= p.fg_threshold:
                        self.foreground.append(window)
                    elif float(overlap) < p.bg_threshold:
                        self.background.append((window[0], 0, window[2]))
        except (ValueError, StopIteration):
            raise DataError("expected blocks of `# number`, path, channels, height, width, number of windows, and for each window "
                            f"`class overlap x1 y1 x2 y2` with a class above 0 in the foreground\n  read by layer \"{self.name}\"", Position(source, number)) from None

    def _load(self, path: str) -> np.ndarray:
        import cv2
        image = read_image(path, cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{path} {'is no image that can be read' if Path(path).is_file() else 'does not exist'}\n  read by layer \"{self.name}\"", Position(self.param.window_data_param.source))
        return image

    def _make(self, batch: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = self.param.window_data_param.batch_size
        images, labels = np.zeros((n, 3, self.crop, self.crop), np.float32), np.empty(n, np.float32)
        for i, (draw, flip) in enumerate(draws):
            windows = self.background if i < n - self.foregrounds else self.foreground
            path, labels[i], box = windows[int(draw) % len(windows)]
            self._warp(self.load(path), box, bool(flip & 1) and self.param.transform_param.mirror, images[i])
        return images, labels

    def _warp(self, image: np.ndarray, box: tuple[int, ...], mirror: bool, out: np.ndarray) -> None:
        """Warp the box, with its context, into `out` (3, crop, crop), which is zero."""
        import cv2
        p, crop = self.param.window_data_param, self.crop
        x1, y1, x2, y2 = box
        if p.context_pad or p.crop_mode == "square":
            half_w, half_h = (x2 - x1 + 1) / 2, (y2 - y1 + 1) / 2
            middle_x, middle_y = x1 + half_w, y1 + half_h
            if p.crop_mode == "square":
                half_w = half_h = max(half_w, half_h)
            grow = crop / (crop - 2 * p.context_pad)
            x1, x2 = round(middle_x - half_w * grow), round(middle_x + half_w * grow)
            y1, y2 = round(middle_y - half_h * grow), round(middle_y + half_h * grow)
        left, width = _part(x1, x2, image.shape[1], crop)
        top, height = _part(y1, y2, image.shape[0], crop)
        if width < 1 or height < 1:
            return                                                          # nothing of the window lies in the image
        inside = image[max(y1, 0):y2 + 1, max(x1, 0):x2 + 1]
        warped = cv2.resize(inside, (width, height), interpolation=cv2.INTER_LINEAR)
        if mirror:
            warped, left = warped[:, ::-1], crop - left - width
        where = (slice(None), slice(top, top + height), slice(left, left + width))
        mean = self.mean if self.mean.shape[1] == 1 else self.mean[where]
        out[where] = (warped.transpose(2, 0, 1).astype(np.float32) - mean) * self.scale

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        images, labels = self.prefetcher.next()
        top[0].value.adopt(images)
        top[1].value.adopt(labels)


def _part(first: int, last: int, size: int, crop: int) -> tuple[int, int]:
    """(begin, length) in the warped window, along one axis, of what lies inside an image of `size` pixels."""
    scale = crop / (last - first + 1)
    begin = round(max(0, -first) * scale)
    length = round((min(last, size - 1) - max(first, 0) + 1) * scale)
    return begin, min(length, crop - begin)
