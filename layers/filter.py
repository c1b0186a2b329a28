"""Filter: the items of a batch that a selector keeps."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register


@register("Filter")
class FilterLayer(Layer):
    """Keeps the items whose selector is not 0.

        layer { name: "keep" type: "Filter" bottom: "x" bottom: "label" bottom: "selector" top: "kept" top: "kept_label" }

    Bottoms:  one or more (N, ...), and last the selector (N) or (N, 1, ...), which gets no gradient.
    Tops:     one for each bottom but the last, with as many items as are kept: their shape changes at every forward.
              If none is kept, later layers run without items: losses and gradients are 0.
    """

    bottoms, tops = at_least(2), at_least(1)
    in_place = False
    backward_uses = ()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(len(top) == len(bottom) - 1, f"makes one top for each bottom but the selector: {len(bottom) - 1}, found {len(top)}", "top")
        self.kept = None

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < len(self.param.bottom) - 1

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[-1].shape
        n = shape[0] if shape else 0
        fits = bool(shape) and bottom[-1].count == n
        self.require(fits, f"the selector holds one value for each item; its shape is {shape}", "bottom")
        for i, (x, y) in enumerate(zip(bottom, top)):
            self.require(bool(x.shape) and x.shape[0] == n, f"the selector has {n} items, bottom {i} the shape {x.shape}", f"bottom[{i}]")
            if self.kept is None:
                y.reshape(*x.shape)                      # until the first forward has counted, all

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.kept = bottom[-1].value.read().reshape(-1) != 0
        for x, y in zip(bottom, top):
            values = x.value.read()[self.kept]
            y.reshape(*values.shape)
            y.value.write()[...] = values

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[-1], "a selector has no gradient", "propagate_down")
        for x, y, down in zip(bottom, top, propagate_down):
            if down:
                dx = x.gradient.write()
                dx[...] = 0
                dx[self.kept] = y.gradient.read()
