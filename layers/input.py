"""Input: blobs that the caller fills."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, exactly, register


@register("Input")
class InputLayer(Layer):
    """Blobs that the caller fills before each forward.

        layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 64 dim: 1 dim: 28 dim: 28 } } }

    Tops:   one or more.
    shape   one for all tops, one for each, or none: the caller reshapes the blobs.
    """

    bottoms, tops = exactly(0), at_least(1)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        shapes = self.param.input_param.shape
        self.require(len(shapes) in (0, 1, len(top)), f"shape is given once, or for each of the {len(top)} tops; found {len(shapes)}", "input_param.shape")
        for i, blob in enumerate(top if shapes else []):
            blob.reshape(*shapes[i if len(shapes) > 1 else 0].dim)
