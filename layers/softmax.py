"""Softmax, and its cross entropy with labels."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.errors import DataError, fail
from ..engine.layer import Layer, between, channels_view, register
from ..engine.memory import Memory
from .active_set import ActiveSetLossLayer
from .loss import class_weights, normalizer


@register("Softmax")
class SoftmaxLayer(Layer):
    """e^x divided by its sum along an axis.

        layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }

    Bottom, top:  any shape.
    axis   whose values sum to one, default 1.
    """

    backward_uses = ("top",)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        axis = self.axis(self.param.softmax_param.axis, len(shape), "softmax_param.axis")
        top[0].reshape(*shape)
        self.view = channels_view(shape, axis, axis + 1)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].value.read()
        self.k.softmax_forward(x, top[0].value.write(), *self.view)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            y, dy = top[0].value.read(), top[0].gradient.read()
            self.k.softmax_backward(y, dy, bottom[0].gradient.write(), *self.view)


@register("SoftmaxWithLoss", "SoftmaxWithLossOHEM")
class SoftmaxWithLossLayer(ActiveSetLossLayer):
    """The cross entropy of the bottom's softmax with labels: minus the mean logarithm of the label's probability.

        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }

    Bottoms:  scores (N, C, ...); labels, one for each position without the class axis, whole numbers in 0..C-1, or soft
              targets with the scores' shape: a share for each class; optionally a weight for each label, or for each of the N items.
    Tops:     the loss, a scalar; optionally the probabilities, with the scores' shape; optionally each label's own loss.

    softmax_param.axis          the class axis, default 1.
    loss_param.ignore_label     positions with this label do not count.
    loss_param.normalization    the sum is divided by: VALID (default) the positions that count, FULL all of them,
                                BATCH_SIZE N, NONE 1, PRE_FIXED pre_fixed_normalizer; never by less than 1. Weights do not change it.
    loss_param.class_weighting  a weight for each class, by which the losses of its labels are multiplied.
    loss_param.label_smoothing  e: the label's share is 1 - e, and e is spread evenly over all classes (Szegedy et al. 2016).

    loss_param.label_lists      labels are (N, L), each item's, padded by -1, for scores (N, C). Each of an item's n labels
                                has the target 1/n, one that comes again in its list counts once; an item without labels
                                has the loss 0, no gradient, and does not count for VALID. Excludes ignore_label,
                                class_weighting, label_smoothing.

    R-FCN's SoftmaxWithLossOHEM is this layer with all three tops.
    """

    results, kernel = 2, "active_softmax_forward"
    tops = between(1, 3)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.loss_param, bottom[0].shape
        axis = self.axis(self.param.softmax_param.axis, len(shape), "softmax_param.axis")
        self.view = channels_view(shape, axis, axis + 1)
        outer, classes, inner = self.view
        if p.label_lists:
            self.require((outer, inner) == (shape[0], 1), f"label_lists is for scores (N, C), found {shape} with the "
                         f"class axis {axis}", "loss_param.label_lists")
            self.reshape_sets(bottom, top, False)
            if len(top) > 1:
                top[1].reshape(*shape)
            return
        alike = bottom[1].count == bottom[0].count if bottom[0].count else bottom[1].shape == shape
        self.soft = classes > 1 and alike
        self.require(self.soft or bottom[1].count == outer * inner, f"the scores {shape} have {outer * inner} positions; there are {bottom[1].count} labels, shape {bottom[1].shape}", "bottom[1]")
        self.require(0 <= p.label_smoothing < 1, f"label_smoothing is at least 0 and less than 1, found {p.label_smoothing:g}", "loss_param.label_smoothing")
        if self.soft:
            for field in ("ignore_label", "class_weighting", "label_smoothing"):
                self.require(not getattr(p, field), f"{field} is for labels; bottom 1 has soft targets", f"loss_param.{field}")
        self.set_items(bottom, top, shape[:axis] + shape[axis + 1:] if self.soft else bottom[1].shape)
        if len(top) > 1:
            top[1].reshape(*shape)
        self.probabilities = top[1].value if len(top) > 1 else Memory(shape)

    def label_args(self) -> tuple[Any, ...]:
        p = self.param.loss_param
        return *self.view, p.HasField("ignore_label"), p.ignore_label, p.label_smoothing

    def weights(self, bottom: list[Blob]) -> Any:
        own, one_label = super().weights(bottom), not (self.param.loss_param.label_lists or self.soft)
        by_class = class_weights(self, bottom[1].value.read(), self.view[1]) if one_label else None
        return own if by_class is None else by_class if own is None else own * by_class

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.param.loss_param.label_lists:
            return self.forward_lists(bottom, top)
        x, xp = bottom[0].value.read(), self.device.xp
        probabilities = self.probabilities.write()
        self.k.softmax_forward(x, probabilities, *self.view)
        targets = bottom[1].value.read()
        if self.soft:
            logs = xp.log(xp.maximum(probabilities, xp.finfo(xp.float32).tiny)).reshape(self.view)
            each, counted = -(targets.reshape(self.view) * logs).sum(1).reshape(-1), self.count
        else:
            each = self.device.empty(self.count)
            counted, bad = self.k.cross_entropy_forward(probabilities, targets, each, *self.label_args())
            self.refuse_label(bad, targets)
        self.finish(bottom, top, each, normalizer(self.param.loss_param, self.view, counted))

    def forward_lists(self, bottom: list[Blob], top: list[Blob]) -> None:
        """The probabilities of a top are divided by their sums here; otherwise backward does both in one pass."""
        p = top[1].value.write() if len(top) > 1 else None
        self.forward_sets(bottom, top, False, p)
        if p is not None:
            p.reshape(self.count, -1 if p.size else 0)[...] *= self.scale[:, None]
            self.scale[...] = 1

    def refuse_label(self, bad: int, targets: Any) -> None:
        """Raise DataError if a kernel found a label that is no class at position `bad`; -1: none."""
        if bad >= 0:                         # the text reads a label, which on a GPU would wait for it every time
            fail(self.param, f"the label at position {bad} of the batch is {float(targets.reshape(-1)[bad]):g}; there are {self.view[1]} classes, 0 to {self.view[1] - 1}", "bottom[1]", DataError)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Labels are read again, as in Caffe: they may be others than forward saw. One that is no class raises DataError; on a
        GPU its gradient is NaN."""
        self.refuse(propagate_down)
        if not propagate_down[0]:
            return
        if self.param.loss_param.label_lists:
            return self.backward_sets(bottom, top)
        probabilities = (top[1].value if len(top) > 1 else self.probabilities).read()
        targets, dx = bottom[1].value.read(), bottom[0].gradient.write()
        if not self.soft:
            w = self.weights(bottom)
            bad = self.k.cross_entropy_backward(probabilities, targets, w, dx, *self.label_args(), float(top[0].gradient.read()) / self.divisor)
            self.refuse_label(bad, targets)
            return
        outer, _, inner = self.view
        t, slope = targets.reshape(self.view), self.slope(bottom, top)
        dx.reshape(self.view)[...] = (probabilities.reshape(self.view) * t.sum(1, keepdims=True) - t) * (slope if slope.ndim == 0 else slope.reshape(outer, 1, inner))
