"""InfogainLoss: cross entropy where some confusions cost more than others."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import between, channels_view, register
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb
from ..proto import find_file, read_binary, to_array
from .loss import LossLayer, normalizer
from .whole_numbers import refuse, whole_numbers

LEAST = 1e-20          # probabilities below this count as this, as in Caffe


@register("InfogainLoss")
class InfogainLossLayer(LossLayer):
    """Minus the sum over classes of H[label, class] log p[class], p being the softmax of the scores.

        layer { name: "loss" type: "InfogainLoss" bottom: "scores" bottom: "label" top: "loss"
                infogain_loss_param { source: "infogain.binaryproto" } }

    Bottoms:  scores (N, C, ...); labels, one for each position; optionally H (C, C); then optionally a weight
              for each label.
    Tops:     the loss, a scalar; optionally the probabilities; optionally each label's loss.
    source    a BlobProto with H, unless it is bottom 2.      axis   the class axis, default 1.
    loss_param: ignore_label and normalization, as for SoftmaxWithLoss.
    """

    compared, results = 3, 2
    bottoms, tops = between(2, 4), between(1, 3)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.infogain_loss_param
        self.require(not self.param.loss_param.HasField("normalize"), "normalize is not for InfogainLoss: give normalization", "loss_param.normalize")
        self.matrix: Any = None
        if len(bottom) == 2:
            self.require(p.HasField("source"), "source (or a third bottom) must give the infogain matrix", "infogain_loss_param")
            self.matrix = to_array(read_binary(find_file(p.source, self.param.position.file), pb.BlobProto(), "infogain matrix"))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        axis = self.axis(self.param.infogain_loss_param.axis, len(shape), "infogain_loss_param.axis")
        self.view = channels_view(shape, axis, axis + 1)
        outer, classes, inner = self.view
        self.require(classes, f"needs at least one class; the scores' shape is {shape}", "bottom")
        self.require(bottom[1].count == outer * inner, f"the scores {shape} have {outer * inner} positions; there are {bottom[1].count} labels", "bottom[1]")
        size = self.matrix.size if self.matrix is not None else bottom[2].count
        self.require(size == classes * classes, f"the infogain matrix needs {classes} x {classes} values, found {size}", "infogain_loss_param")
        self.set_items(bottom, top, bottom[1].shape)
        if len(top) > 1:
            top[1].reshape(*shape)
        self.probabilities = top[1].value if len(top) > 1 else Memory(shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.loss_param
        outer, classes, inner = self.view
        probabilities = self.probabilities.write()
        self.k.softmax_forward(bottom[0].value.read(), probabilities, *self.view)
        values = bottom[1].value.read().reshape(outer, inner)
        labels = whole_numbers(xp, values)
        counts = labels != p.ignore_label if p.HasField("ignore_label") else xp.ones(labels.shape, bool)
        wrong = counts & ((labels < 0) | (labels >= classes))
        refuse(self, wrong, values, f"a label lies outside of the {classes} classes", "bottom[1]")
        matrix = xp.asarray(self.matrix) if self.matrix is not None else bottom[2].value.read()
        gains = matrix.reshape(classes, classes)[xp.where(counts, labels, 0)] * counts[..., None]      # (outer, inner, classes)
        self.gains = xp.moveaxis(gains, 2, 1).astype(np.float32)
        logs = xp.log(xp.maximum(probabilities.reshape(self.view), LEAST))
        self.finish(bottom, top, -(self.gains * logs).sum(1).reshape(-1), normalizer(p, self.view, int(counts.sum())))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        if propagate_down[0]:
            p = (top[1].value if len(top) > 1 else self.probabilities).read().reshape(self.view)
            slope = self.slope(bottom, top)
            weight = slope if slope.ndim == 0 else slope.reshape(self.view[0], 1, self.view[2])
            bottom[0].gradient.write().reshape(self.view)[...] = (p * self.gains.sum(1, keepdims=True) - self.gains) * weight
