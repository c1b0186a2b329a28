"""ContrastiveLoss: pairs that should be near, and pairs that should be far apart."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import item_rows, register
from .loss import LossLayer


@register("ContrastiveLoss")
class ContrastiveLossLayer(LossLayer):
    """For N pairs with distance d: d^2 if similar, else max(0, margin - d)^2; summed and divided by 2 N.

        layer { name: "loss" type: "ContrastiveLoss" bottom: "a" bottom: "b" bottom: "similar" top: "loss"
                contrastive_loss_param { margin: 1 } }

    Bottoms:  (N, C) and (N, C), both get gradients; (N), not 0 for similar pairs; optionally a weight for each pair (N).
    Tops:     the loss, a scalar; optionally each pair's loss (N).

    margin           default 1.
    legacy_version   default false; true: max(0, margin - d^2), as Caffe had it until 2014.
    Hadsell, Chopra, LeCun, CVPR 2006.
    """

    compared = 3

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_batch(bottom)
        self.require(bottom[0].count == bottom[1].count, f"both sides of the pairs need one shape: found {bottom[0].shape} and {bottom[1].shape}", "bottom")
        self.require(bottom[2].count == bottom[0].shape[0], f"there are {bottom[0].shape[0]} pairs and {bottom[2].count} flags", "bottom[2]")
        self.set_items(bottom, top, bottom[0].shape[:1])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p, n = self.device.xp, self.param.contrastive_loss_param, bottom[0].shape[0]
        rows = item_rows(bottom[0].shape)
        self.difference: Any = bottom[0].value.read().reshape(rows) - bottom[1].value.read().reshape(rows)
        squares = (self.difference * self.difference).sum(1)
        self.similar = bottom[2].value.read().reshape(-1) != 0
        self.distance = xp.sqrt(squares)
        margin = xp.float32(p.margin)
        apart = xp.maximum(margin - squares, 0) if p.legacy_version else xp.maximum(margin - self.distance, 0) ** 2
        self.near = margin - (squares if p.legacy_version else self.distance)          # more than 0: too near to each other
        self.finish(bottom, top, xp.where(self.similar, squares, apart) / 2, n)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down, 2)
        xp = self.device.xp
        legacy = self.param.contrastive_loss_param.legacy_version
        push = xp.float32(-1) if legacy else -self.near / (self.distance + xp.float32(1e-4))
        slope = xp.where(self.similar, xp.float32(1), xp.where(self.near > 0, push, xp.float32(0)))
        d = slope[:, None] * self.difference * self.slope(bottom, top)
        for blob, down in zip(bottom[:2], propagate_down):
            if down:
                blob.gradient.write().reshape(d.shape)[...] = d if blob is bottom[0] else -d
