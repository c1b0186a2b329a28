"""Softmax, and its cross entropy with labels."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.errors import DataError, fail
from ..engine.layer import Layer, LossLayer, between, channels_view, register
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb


@register("Softmax")
class SoftmaxLayer(Layer):
    """e^x divided by its sum along an axis.

        layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }

    Bottom, top:  any shape.
    axis   whose values sum to one, default 1.
    """

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


@register("SoftmaxWithLoss")
class SoftmaxWithLossLayer(LossLayer):
    """The cross entropy of the bottom's softmax with labels: minus the mean logarithm of the label's probability.

        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }

    Bottoms:  scores (N, C, ...); labels, one for each position without the class axis, whole numbers in 0..C-1.
    Tops:     the loss, a scalar; optionally the probabilities, with the scores' shape.

    softmax_param.axis          the class axis, default 1.
    loss_param.ignore_label     positions with this label do not count.
    loss_param.normalization    the sum is divided by: VALID (default) the positions that count, FULL all of them,
                                BATCH_SIZE N, NONE 1, PRE_FIXED pre_fixed_normalizer; never by less than 1.
    """

    tops = between(1, 2)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        axis = self.axis(self.param.softmax_param.axis, len(shape), "softmax_param.axis")
        self.view = channels_view(shape, axis, axis + 1)
        outer, classes, inner = self.view
        self.require(bottom[1].count == outer * inner, f"the scores {shape} have {outer * inner} positions; there are {bottom[1].count} labels, shape {bottom[1].shape}", "bottom[1]")
        top[0].reshape()
        if len(top) > 1:
            top[1].reshape(*shape)
        self.probabilities = top[1].value if len(top) > 1 else Memory(shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.loss_param
        x = bottom[0].value.read()
        probabilities = self.probabilities.write()
        self.k.softmax_forward(x, probabilities, *self.view)
        labels = bottom[1].value.read()
        total, counted, bad = self.k.cross_entropy_forward(probabilities, labels, *self.view, p.HasField("ignore_label"), p.ignore_label)
        if bad >= 0:                     # the text reads a label, which on a GPU would wait for it every time
            fail(self.param, f"the label at position {bad} of the batch is {float(labels.reshape(-1)[bad]):g}; there are {self.view[1]} classes, 0 to {self.view[1] - 1}", "bottom[1]", DataError)
        self.divisor = normalizer(p, self.view, counted)
        top[0].value.write()[...] = total / self.divisor

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "labels have no gradient", "propagate_down")
        if propagate_down[0]:
            p = self.param.loss_param
            weight = float(top[0].gradient.read()) / self.divisor
            self.k.cross_entropy_backward(self.probabilities.read(), bottom[1].value.read(), bottom[0].gradient.write(), *self.view,
                                          p.HasField("ignore_label"), p.ignore_label, weight)


def normalizer(p: Any, view: tuple[int, int, int], counted: int, default: int = pb.LossParameter.VALID) -> float:
    """What a loss over (outer, classes, inner) positions is divided by, `counted` of them not ignored."""
    mode = p.normalization if p.HasField("normalization") else default
    if not p.HasField("normalization") and p.HasField("normalize"):
        mode = p.VALID if p.normalize else p.BATCH_SIZE
    outer, _, inner = view
    return max(1.0, float({p.FULL: outer * inner, p.VALID: counted, p.BATCH_SIZE: outer, p.NONE: 1, p.PRE_FIXED: p.pre_fixed_normalizer}[mode]))
