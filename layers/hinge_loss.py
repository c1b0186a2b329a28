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

    Bottoms:  scores (N, C); labels (N).      Top:  the loss, a scalar.      norm   L1 (default) or L2.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, onehot = self.scores(bottom)
        self.sign = 1 - 2 * onehot
        self.excess: Any = self.device.xp.maximum(1 + self.sign * x, 0)
        terms = self.excess if self.param.hinge_loss_param.norm == 1 else self.excess * self.excess
        top[0].value.write()[...] = terms.sum() / x.shape[0]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "labels have no gradient", "propagate_down")
        if propagate_down[0]:
            slope = (self.excess > 0) if self.param.hinge_loss_param.norm == 1 else 2 * self.excess
            weight = self.device.xp.float32(float(top[0].gradient.read()) / self.excess.shape[0])
            bottom[0].gradient.write().reshape(self.excess.shape)[...] = self.sign * slope * weight
