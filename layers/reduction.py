"""Reduction: the last axes of a blob summed up."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, channels_view, register


@register("Reduction")
class ReductionLayer(Layer):
    """Sums over all axes from `axis` on, times `coeff`: of the values, their magnitudes, their squares; or their mean.

        layer { name: "total" type: "Reduction" bottom: "x" top: "y" reduction_param { operation: SUMSQ axis: 1 } }

    Bottom:  any shape.      Top:  the bottom's axes before `axis`.
    operation   SUM (default), ASUM, SUMSQ, MEAN.      axis   default 0.      coeff   default 1.
    """

    in_place = False
    backward_uses = ("bottom",)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.reduction_param, bottom[0].shape
        axis = self.axis(p.axis, len(shape), "reduction_param.axis") if shape else 0
        outer, dim, _ = channels_view(shape, axis, len(shape))
        self.view = (outer, dim)
        self.kind = {p.SUM: "sum", p.ASUM: "asum", p.SUMSQ: "sumsq", p.MEAN: "sum"}[p.operation]
        self.factor = self.device.xp.float32(p.coeff / max(dim, 1) if p.operation == p.MEAN else p.coeff)
        top[0].reshape(*shape[:axis])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].value.read().reshape(self.view)
        terms = abs(x) if self.kind == "asum" else x * x if self.kind == "sumsq" else x
        top[0].value.write().reshape(-1)[...] = terms.sum(1) * self.factor

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        x = bottom[0].value.read().reshape(self.view)
        slope: Any = self.device.xp.sign(x) if self.kind == "asum" else 2 * x if self.kind == "sumsq" else 1
        bottom[0].gradient.write().reshape(self.view)[...] = slope * top[0].gradient.read().reshape(-1, 1) * self.factor
