"""EuclideanLoss: half the mean squared distance."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import item_rows, register
from .loss import LossLayer


@register("EuclideanLoss")
class EuclideanLossLayer(LossLayer):
    """sum (a - b)^2 / (2 N), for regression.

        layer { name: "loss" type: "EuclideanLoss" bottom: "prediction" bottom: "target" top: "loss" }

    Bottoms:  (N, ...) and (N, ...) of equal counts, both may get gradients; optionally a weight for each item (N).
    Tops:     the loss, a scalar; optionally each item's loss (N).
    """

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_batch(bottom)
        self.require(bottom[0].count == bottom[1].count, f"both bottoms need the same number of values: the shapes are {bottom[0].shape} and {bottom[1].shape}", "bottom")
        self.set_items(bottom, top, bottom[0].shape[:1])

    def _difference(self, bottom: list[Blob]) -> Any:
        rows = item_rows(bottom[0].shape)
        return bottom[0].value.read().reshape(rows) - bottom[1].value.read().reshape(rows)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        d = self._difference(bottom)
        self.finish(bottom, top, (d * d).sum(1) / 2, bottom[0].shape[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down, 2)
        d = self._difference(bottom) * self.slope(bottom, top)
        for blob, down in zip(bottom[:2], propagate_down):
            if down:
                blob.gradient.write().reshape(d.shape)[...] = d if blob is bottom[0] else -d
