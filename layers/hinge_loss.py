"""HingeLoss: how far scores are from being right by a margin of 1."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import register
from .labelled import LabelledLossLayer


@register("HingeLoss")
class HingeLossLayer(LabelledLossLayer):
    """sum of max(0, 1 + s x) / N, or of its squares, with s = -1 for the label's class and 1 for all others.

        layer { name: "loss" type: "HingeLoss" bottom: "scores" bottom: "label" top: "loss" hinge_loss_param { norm: L2 } }

    Bottoms:  scores (N, C); labels (N); optionally a weight for each item (N).
    Tops:     the loss, a scalar; optionally each item's loss, with the labels' shape.
    norm   L1 (default) or L2.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, onehot = self.scores(bottom)
        self.sign = 1 - 2 * onehot
        self.excess: Any = self.device.xp.maximum(1 + self.sign * x, 0)
        terms = self.excess if self.param.hinge_loss_param.norm == 1 else self.excess * self.excess
        self.finish(bottom, top, terms.sum(1), x.shape[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        if propagate_down[0]:
            slope = (self.excess > 0) if self.param.hinge_loss_param.norm == 1 else 2 * self.excess
            bottom[0].gradient.write().reshape(self.excess.shape)[...] = self.sign * slope * self.slope(bottom, top)
