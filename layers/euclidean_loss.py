"""EuclideanLoss: half the mean squared distance."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import LossLayer, register


@register("EuclideanLoss")
class EuclideanLossLayer(LossLayer):
    """sum (a - b)^2 / (2 N), for regression.

        layer { name: "loss" type: "EuclideanLoss" bottom: "prediction" bottom: "target" top: "loss" }

    Bottoms:  (N, ...) and (N, ...) of equal counts; both may get gradients.
    Top:      the loss, a scalar.
    """

    def may_force_backward(self, bottom: int) -> bool:
        return True

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_batch(bottom)
        self.require(bottom[0].count == bottom[1].count, f"both bottoms need the same number of values: the shapes are {bottom[0].shape} and {bottom[1].shape}", "bottom")
        top[0].reshape()

    def _difference(self, bottom: list[Blob]) -> Any:
        return bottom[0].value.read() - bottom[1].value.read().reshape(bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        d = self._difference(bottom)
        top[0].value.write()[...] = (d * d).sum() / (2 * bottom[0].shape[0])  

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        d = self._difference(bottom)
        weight = float(top[0].gradient.read()) / bottom[0].shape[0]
        for sign, blob, down in zip((1, -1), bottom, propagate_down):
            if down:
                blob.gradient.write()[...] = (d * self.device.xp.float32(sign * weight)).reshape(blob.shape)
