"""Parameter: a learned blob that other layers read."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register


@register("Parameter")
class ParameterLayer(Layer):
    """A learned blob as a top. It begins with zeros.

        layer { name: "offset" type: "Parameter" top: "offset" parameter_param { shape { dim: 1 dim: 10 } } }

    Top:  of that shape, which is also its blob: the gradient of the top is that of the blob.
    """

    bottoms, in_place = exactly(0), False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.add_blob(tuple(self.param.parameter_param.shape.dim))
        top[0].reshape(*self.blobs[0].shape)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].share_value(self.blobs[0])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].share_value(self.blobs[0])                       # another net's by now, perhaps

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.k.linear(top[0].gradient.read(), 1.0, self.blobs[0].gradient.adding(), 1.0)
