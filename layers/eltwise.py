"""Eltwise: the sum, product or maximum of several blobs of one shape."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register
from ..engine.layout import PLAIN


@register("Eltwise")
class EltwiseLayer(Layer):
    """Element by element over all bottoms: SUM (with coefficients), PROD or MAX.

        layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" eltwise_param { operation: SUM } }

    Bottoms:  two or more of one shape.      Top:  the same shape.
    operation          SUM (default), PROD, MAX.
    coeff              SUM: a factor for each bottom, default 1.
    stable_prod_grad   PROD: the gradient multiplies the other bottoms (default) instead of dividing the product.

    MAX gives the gradient to the winner alone; of two equal values the second bottom wins, later ones only if larger.
    """

    bottoms = at_least(2)
    in_place = False
    fuses_backward = True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.eltwise_param
        coeff = list(p.coeff)
        self.require(not coeff or p.operation == p.SUM, "coeff is for SUM", "eltwise_param.coeff")
        self.require(len(coeff) in (0, len(bottom)), f"coeff is given for each of the {len(bottom)} bottoms or not at all, found {len(coeff)}", "eltwise_param.coeff")
        self.coeff = coeff or [1.0] * len(bottom)
        self.adds_up = p.operation == p.SUM and self.coeff == [1.0, 1.0]
        self.operation = {p.SUM: "sum", p.PROD: "product", p.MAX: "maximum"}[p.operation]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        for i, blob in enumerate(bottom):
            self.require(blob.shape == bottom[0].shape, f"all bottoms must have one shape: bottom 0 has {bottom[0].shape}, bottom {i} has {blob.shape}", f"bottom[{i}]")
        top[0].reshape(*bottom[0].shape)
        self.winner: Any = None

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        return self.operation == "sum" and len(self.coeff) == 2 and [(layer.type, getattr(layer, "slope", 1)) for layer in following] == [("ReLU", 0)]

    def forward_fused(self, bottom: list[Blob], top: list[Blob], following: Sequence[Any]) -> None:
        """With the ReLU that follows in place."""
        self._add(bottom, top, cut=True)

    def _add(self, bottom: list[Blob], top: list[Blob], cut: bool) -> None:
        layout = self.layout = bottom[0].value.layout
        x, z = (b.value.read(layout) for b in bottom)
        self.k.add(x, self.coeff[0], z, self.coeff[1], top[0].value.write(layout), cut)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.operation == "sum" and len(bottom) == 2:
            self._add(bottom, top, cut=False)
            return
        layout = self.layout = PLAIN if self.operation == "product" else bottom[0].value.layout
        xs, y = [b.value.read(layout) for b in bottom], top[0].value.write(layout)
        if self.operation == "sum":
            for i, (x, c) in enumerate(zip(xs, self.coeff)):
                self.k.linear(x, c, y, 1.0 if i else 0.0)
        elif self.operation == "product":
            self.k.multiply(xs[0], xs[1], y)
            for x in xs[2:]:
                self.k.multiply(y, x, y)
        else:
            if self.winner is None or self.winner.size != y.size:
                self.winner = self.device.empty(y.size, np.int32)
            for i, x in enumerate(xs):
                self.k.maximum(x, y, self.winner, i)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return () if self.operation == "sum" else [*bottom, *top]

    def backward_fused(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob], following: Sequence[Any]) -> None:
        if not all(propagate_down):
            following[0].backward(top, [True], top)
            self.backward(top, propagate_down, bottom)
            return
        self._add_backward(top[0].value.read(self.layout), top, bottom)

    def _add_backward(self, y: Any, top: list[Blob], bottom: list[Blob]) -> None:
        dx, dz = (b.gradient.write(self.layout) for b in bottom)
        self.k.add_backward(y, top[0].gradient.read(self.layout), self.coeff[0], dx, self.coeff[1], dz)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if self.operation == "sum" and len(bottom) == 2 and all(propagate_down):
            self._add_backward(None, top, bottom)
            return
        dy = top[0].gradient.read(self.layout)
        for i, blob in enumerate(bottom):
            if not propagate_down[i]:
                continue
            dx = blob.gradient.write(self.layout)
            if self.operation == "sum":
                self.k.linear(dy, self.coeff[i], dx, 0.0)
            elif self.operation == "maximum":
                self.k.maximum_backward(dy, self.winner, i, dx)
            elif self.param.eltwise_param.stable_prod_grad:
                self.k.linear(dy, 1.0, dx, 0.0)
                for j, other in enumerate(bottom):
                    if j != i:
                        self.k.multiply(dx, other.value.read(), dx)
            else:
                self.k.divide(top[0].value.read(), blob.value.read(), dx)
                self.k.multiply(dx, dy, dx)
