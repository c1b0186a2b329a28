"""MVN: each plane with mean 0 and variance 1."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register


@register("MVN")
class MVNLayer(Layer):
    """Subtracts the mean of each (item, channel), and divides by its standard deviation + eps.

        layer { name: "mvn" type: "MVN" bottom: "x" top: "y" mvn_param { across_channels: true } }

    Bottom, top:  (N, C, ...)
    normalize_variance   default true; false: only the mean is subtracted.
    across_channels      default false; true: one mean for each item.
    eps                  default 1e-9. The gradient takes it as a part of the standard deviation, as Caffe does: exact for
                         an eps that is small beside it.
    """

    in_place = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        top[0].reshape(*shape)
        rows = self.items(bottom[0]) * (1 if self.param.mvn_param.across_channels or len(shape) < 2 else shape[1])
        self.view = (rows, bottom[0].count // max(rows, 1))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.mvn_param
        x: Any = bottom[0].value.read().reshape(self.view)
        y: Any = top[0].value.write().reshape(self.view)
        if not x.size:
            return                                                 # nothing has no mean
        y[...] = x - x.mean(1, keepdims=True)
        if p.normalize_variance:
            self.divisor = self.device.xp.sqrt((y * y).mean(1, keepdims=True)) + self.device.xp.float32(p.eps)
            y /= self.divisor

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        y, dy = top[0].value.read().reshape(self.view), top[0].gradient.read().reshape(self.view)
        dx = bottom[0].gradient.write().reshape(self.view)
        if not dx.size:
            return
        dx[...] = dy - dy.mean(1, keepdims=True)
        if self.param.mvn_param.normalize_variance:
            dx -= y * (dy * y).mean(1, keepdims=True)
            dx /= self.divisor
