"""caffe.Detector: what is in windows of images (R-CNN: Girshick, Donahue, Darrell and Malik, 2014)."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import NetError
from ..engine.exclusive import exclusive
from . import io
from .classifier import preprocessing
from .pycaffe import TEST, Net


class Detector(Net):
    """A deployed net that classifies windows. context_pad: pixels of the net's input around each window that show what is beside it;
    where that is outside of the image, the mean stands. The other parameters are Classifier's.
    """

    def __init__(self, model_file: str | Path, pretrained_file: str | Path, mean: np.ndarray | None = None, input_scale: float | None = None,
                 raw_scale: float | None = None, channel_swap: Sequence[int] | None = None, context_pad: int | None = None):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer, self.crop_dims = preprocessing(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    @exclusive
    def detect_windows(self, images_windows: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
        """[(picture's file, windows (n, 4) as ymin, xmin, ymax, xmax)] to a dict for each window: filename, window, prediction."""
        crops, places = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename).astype(np.float32)
            for window in np.asarray(windows).reshape(-1, 4):
                crops.append(self.crop(image, window))
                places.append((filename, window))
        if not crops:
            return []
        name = self.inputs[0]
        prepared: Any = {name: np.stack([self.transformer.preprocess(name, crop) for crop in crops])}
        predictions = self.forward_all(**prepared)[self.outputs[0]].reshape(len(crops), -1)
        return [{"window": window, "prediction": prediction, "filename": filename} for (filename, window), prediction in zip(places, predictions)]

    @exclusive
    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """detect_windows() on the proposals of selective search. Raises NetError without the package that Caffe takes them from."""
        try:
            import selective_search_ijcv_with_python as selective_search
        except ImportError:
            raise NetError("selective search needs the package selective_search_ijcv_with_python (and MATLAB)\n  detect_windows takes windows from anywhere") from None
        fnames = [str(Path(name).absolute()) for name in image_fnames]
        return self.detect_windows(list(zip(image_fnames, selective_search.get_windows(fnames, cmd="selective_search_rcnn"))))

    def crop(self, im: np.ndarray, window: Any) -> np.ndarray:
        """A window (ymin, xmin, ymax, xmax; the last pixels are within) of an image, with its context."""
        y0, x0, y1, x1 = (int(v) for v in window)
        if not self.context_pad:
            return im[max(y0, 0):y1 + 1, max(x0, 0):x1 + 1]
        height, width = (int(d) for d in self.crop_dims)
        scale_y, scale_x = height / (height - 2 * self.context_pad), width / (width - 2 * self.context_pad)
        centre_y, centre_x = (y0 + y1 + 1) / 2, (x0 + x1 + 1) / 2
        half_y, half_x = (y1 - y0 + 1) / 2 * scale_y, (x1 - x0 + 1) / 2 * scale_x
        top, bottom, left, right = (round(v) for v in (centre_y - half_y, centre_y + half_y, centre_x - half_x, centre_x + half_x))
        inside = im[max(top, 0):min(bottom, im.shape[0]), max(left, 0):min(right, im.shape[1])]
        result = np.tile(self.crop_mean, (1, 1, 1)).astype(np.float32).copy()
        if inside.size:                                              # where it lies in the net's input
            to_y, to_x = height / max(bottom - top, 1), width / max(right - left, 1)
            y, x = round((max(top, 0) - top) * to_y), round((max(left, 0) - left) * to_x)
            h, w = min(max(round(inside.shape[0] * to_y), 1), height - y), min(max(round(inside.shape[1] * to_x), 1), width - x)
            if h > 0 and w > 0:
                result[y:y + h, x:x + w] = io.resize_image(inside, (h, w))
        return result

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context, and the mean of an image before preprocessing, which fills what is outside. Raises NetError if too wide."""
        if context_pad and 2 * context_pad >= min(self.crop_dims):
            raise NetError(f"a context_pad of {context_pad} leaves nothing of the net's input of {' x '.join(map(str, self.crop_dims))}")
        self.context_pad = context_pad
        if not context_pad:
            return
        name = self.inputs[0]
        transformer, shape = self.transformer, self.blobs[self.inputs[0]].shape[1:]
        mean = transformer.mean.get(name)
        values = np.zeros(shape, np.float32) if mean is None else np.broadcast_to(mean, shape)
        swap, transpose = transformer.channel_swap.get(name), transformer.transpose.get(name)
        if swap is not None:
            values = values[np.argsort(swap)]
        if transpose is not None:
            values = values.transpose(np.argsort(transpose))
        raw = transformer.raw_scale.get(name)
        self.crop_mean = values if raw is None else values / np.float32(raw)
