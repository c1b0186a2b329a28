"""Silence: reads blobs so that they are no outputs of the net."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, exactly, register


@register("Silence")
class SilenceLayer(Layer):
    """Swallows its bottoms: they are not shown as outputs, and get a gradient of zero.

        layer { name: "quiet" type: "Silence" bottom: "unused" }

    Bottoms:  one or more, any shapes.      Tops:  none.
    """

    bottoms, tops = at_least(1), exactly(0)
    backward_uses = ()

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for blob, down in zip(bottom, propagate_down):
            if down:
                blob.gradient.clear()
