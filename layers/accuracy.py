"""Accuracy: how many of the best scores are right."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, between, channels_view, exactly, register
from .whole_numbers import integers, refuse


@register("Accuracy")
class AccuracyLayer(Layer):
    """The share of positions whose label is among the top_k best scores. Other classes that tie count against it.

        layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }

    Bottoms:  scores (N, C, ...); labels, one for each position without the class axis.
    Tops:     the accuracy, a scalar; optionally that of each class (C), 0 for classes that do not occur.

    top_k          default 1.      axis   the class axis, default 1.
    ignore_label   positions with this label do not count.
    """

    bottoms, tops = exactly(2), between(1, 2)
    in_place = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.accuracy_param, bottom[0].shape
        axis = self.axis(p.axis, len(shape), "accuracy_param.axis")
        self.view = channels_view(shape, axis, axis + 1)
        outer, classes, inner = self.view
        self.require(bottom[1].count == outer * inner, f"the scores {shape} have {outer * inner} positions; there are {bottom[1].count} labels, shape {bottom[1].shape}", "bottom[1]")
        self.require(1 <= p.top_k <= classes, f"top_k must lie between 1 and the {classes} classes, found {p.top_k}", "accuracy_param.top_k")
        top[0].reshape()
        if len(top) > 1:
            top[1].reshape(classes)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.accuracy_param
        outer, classes, inner = self.view
        scores = bottom[0].value.read().reshape(self.view)
        labels = integers(bottom[1].value).reshape(outer, inner)
        counts = labels != p.ignore_label if p.HasField("ignore_label") else xp.ones(labels.shape, bool)
        wrong = counts & ((labels < 0) | (labels >= classes))
        refuse(self, wrong, bottom[1].value, f"a label lies outside of the {classes} classes, 0 to {classes - 1}: found {{value}}", "bottom[1]")
        safe = xp.where(counts, labels, 0)
        own = xp.take_along_axis(scores, safe[:, None, :], 1)
        right = counts & ((scores >= own).sum(1) - 1 < p.top_k)
        total = max(int(counts.sum()), 1)
        top[0].value.write()[...] = float(right.sum()) / total
        if len(top) > 1:
            seen = xp.bincount(safe[counts], minlength=classes)
            hits = xp.bincount(safe[right], minlength=classes)
            top[1].value.write()[...] = hits / xp.maximum(seen, 1)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "an accuracy has no gradient", "propagate_down")

    def may_force_backward(self, bottom: int) -> bool:
        return False
