"""MultinomialLogisticLoss: the cross entropy of probabilities with labels."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import register
from .labelled import LabelledLossLayer

LEAST = 1e-20          # probabilities below this count as this, as in Caffe


@register("MultinomialLogisticLoss")
class MultinomialLogisticLossLayer(LabelledLossLayer):
    """Minus the mean logarithm of the label's probability. SoftmaxWithLoss is steadier where the bottom is a softmax.

        layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "loss" }

    Bottoms:  probabilities (N, C); labels (N); optionally a weight for each item (N).
    Tops:     the loss, a scalar; optionally each item's loss, with the labels' shape.
    """

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, onehot = self.scores(bottom)
        own = self.device.xp.maximum((p * onehot).sum(1), LEAST)
        self.finish(bottom, top, -self.device.xp.log(own), p.shape[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        if propagate_down[0]:
            p, onehot = self.scores(bottom)
            bottom[0].gradient.write().reshape(p.shape)[...] = -onehot / self.device.xp.maximum(p, LEAST) * self.slope(bottom, top)
