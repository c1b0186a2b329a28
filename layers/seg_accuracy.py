"""SegAccuracy: how well the pixels of an image are labelled."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, channels_view, exactly, register
from ..engine.memory import Memory
from .whole_numbers import whole_numbers


@register("SegAccuracy")
class SegAccuracyLayer(Layer):
    """Pixel accuracy, mean class accuracy and mean intersection over union, from a table of true and best classes (DeepLab's;
    Everingham et al., Pascal VOC, 2010).

        layer { name: "accuracy" type: "SegAccuracy" bottom: "fc8" bottom: "label" top: "accuracy" seg_accuracy_param { ignore_label: 255 } }

    Bottoms:  scores (N, C, H, W); labels (N, 1, H, W).
    Top:      (3): the share of pixels that are right; the mean over classes of the share of their pixels that are; the mean of
              intersection over union. Classes that do not occur do not count.

    ignore_label   pixels with one of these do not count.      reset   false: over all batches so far, default true.
    """

    bottoms, in_place = exactly(2), False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.table = Memory()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(len(shape) >= 2, f"scores need the shape (N, C, H, W), found {shape}", "bottom")
        self.require(shape[1], f"needs at least one class; the scores' shape is {shape}", "bottom")
        self.require(bottom[1].count * shape[1] == bottom[0].count, f"the scores {shape} have {bottom[0].count // shape[1]} pixels; there are {bottom[1].count} labels", "bottom[1]")
        top[0].reshape(3)
        if self.table.shape != (shape[1], shape[1]):
            self.table = Memory((shape[1], shape[1]))                  # pixels by true class and best class
            self.carried = () if self.param.seg_accuracy_param.reset else (self.table,)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p, classes = self.device.xp, self.param.seg_accuracy_param, bottom[0].shape[1]
        best = bottom[0].value.read().reshape(channels_view(bottom[0].shape, 1, 2)).argmax(1).reshape(-1)
        labels = whole_numbers(xp, bottom[1].value.read().reshape(-1))
        counts = (labels >= 0) & (labels < classes)
        for ignored in p.ignore_label:
            counts &= labels != ignored
        new = xp.bincount((labels * classes + best)[counts], minlength=classes * classes).reshape(classes, classes)
        table: Any = self.table.update() if not p.reset else self.table.write()
        table[...] = new + table if not p.reset else new
        right, true, said = xp.diagonal(table), table.sum(1), table.sum(0)
        seen = true > 0
        present = true + said - right > 0

        def mean(values: Any, of: Any) -> Any:
            return xp.where(of, values, 0).sum() / xp.maximum(of.sum(), 1)

        top[0].value.write()[...] = xp.stack([right.sum() / xp.maximum(table.sum(), 1), mean(right / xp.maximum(true, 1), seen),
                                              mean(right / xp.maximum(true + said - right, 1), present)])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "an accuracy has no gradient", "propagate_down")
