"""Split: one blob for several readers."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register


@register("Split")
class SplitLayer(Layer):
    """Gives every reader of a blob its own top, so that their gradients add up. The net inserts it where needed.

        layer { name: "x_split" type: "Split" bottom: "x" top: "x0" top: "x1" }

    Bottom:  any shape.      Tops:  one or more, the bottom's values without a copy.
    """

    tops = at_least(1)
    in_place = False
    backward_uses = ()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob in top:
            blob.reshape(*bottom[0].shape)
            blob.share_value(bottom[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        written = [blob.gradient for blob in top if not blob.gradient.store.is_zero]      # others have no gradient
        if not written:
            bottom[0].gradient.clear()
            return
        layout = written[0].layout
        dx = bottom[0].gradient.write(layout)
        first, *others = (gradient.read(layout) for gradient in written)
        if others:
            self.k.add(first, 1.0, others.pop(0), 1.0, dx, False)
        else:
            self.k.linear(first, 1.0, dx, 0.0)
        for dy in others:
            self.k.linear(dy, 1.0, dx, 1.0)
