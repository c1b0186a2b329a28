"""caffe.Classifier: a net that says of images what they are."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.exclusive import exclusive
from . import io
from .pycaffe import TEST, Net


class Classifier(Net):
    """A deployed net with its preprocessing.

    image_dims: images are resized to this (height, width) before they are cropped to the net's input. mean: an array for
    Transformer.set_mean; input_scale, raw_scale, channel_swap as there.
    """

    def __init__(self, model_file: str | Path, pretrained_file: str | Path, image_dims: Sequence[int] | None = None, mean: np.ndarray | None = None,
                 input_scale: float | None = None, raw_scale: float | None = None, channel_swap: Sequence[int] | None = None):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer, self.crop_dims = preprocessing(self, mean, input_scale, raw_scale, channel_swap)
        self.image_dims = np.array(image_dims if image_dims is not None else self.crop_dims)

    @exclusive
    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Probabilities (N, classes) of images (H, W, K), each the mean over ten crops, or the centre's without `oversample`."""
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            images = io.oversample(images, self.crop_dims)
        else:
            y, x = ((np.array(images.shape[1:3]) - self.crop_dims) // 2).astype(int)
            images = images[:, y:y + self.crop_dims[0], x:x + self.crop_dims[1]]
        name = self.inputs[0]
        prepared: Any = {name: np.stack([self.transformer.preprocess(name, image) for image in images])}
        predictions = self.forward_all(**prepared)[self.outputs[0]]
        return predictions.reshape(len(inputs), -1, *predictions.shape[1:]).mean(1) if oversample else predictions


def preprocessing(net: Net, mean: Any, input_scale: float | None, raw_scale: float | None, channel_swap: Sequence[int] | None) -> tuple[io.Transformer, np.ndarray]:
    """(the Transformer of a net's first input, its height and width)."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    settings: list[tuple[Any, Any]] = [(transformer.set_mean, mean), (transformer.set_input_scale, input_scale), (transformer.set_raw_scale, raw_scale),
                                       (transformer.set_channel_swap, channel_swap)]
    for setting, value in settings:
        if value is not None:
            setting(name, value)
    return transformer, np.array(net.blobs[name].shape[2:])
