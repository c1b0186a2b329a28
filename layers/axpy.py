"""Axpy: y + a x with a factor for each channel."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register


@register("Axpy")
class AxpyLayer(Layer):
    """a x + y, a having one value for each item and channel: the end of a squeeze-and-excitation block (Hu et al. 2018).

        layer { name: "conv2_1" type: "Axpy" bottom: "attention" bottom: "branch" bottom: "shortcut" top: "conv2_1" }

    Bottoms:  a (N, C) or (N, C, 1, ...); x (N, C, ...); y, of x's shape.      Top:  x's shape.
    """

    bottoms, in_place = exactly(3), False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        a, x, y = (b.shape for b in bottom)
        self.require(len(x) >= 2 and x == y, f"x and y need one shape (N, C, ...), found {x} and {y}", "bottom[1]")
        self.require(a[:2] == x[:2] and bottom[0].count == x[0] * x[1], f"the factors need the shape {x[:2]}, found {a}", "bottom")
        top[0].reshape(*x)
        rows = x[0] * x[1]
        self.grid = (1, rows, bottom[1].count // max(rows, 1), 1, rows)         # every channel of every item has a factor of its own

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        a, x, y = (b.value.read() for b in bottom)
        z = top[0].value.write()
        self.k.scale_forward(x, a, None, z, self.grid)
        self.k.linear(y, 1.0, z, 1.0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        dz = top[0].gradient.read()
        if propagate_down[0]:
            bottom[0].gradient.clear()
            self.k.scale_gradients(bottom[1].value.read(), dz, bottom[0].gradient.adding(), None, self.grid)
        if propagate_down[1]:
            self.k.scale_forward(dz, bottom[0].value.read(), None, bottom[1].gradient.write(), self.grid)
        if propagate_down[2]:
            self.k.linear(dz, 1.0, bottom[2].gradient.write(), 0.0)
