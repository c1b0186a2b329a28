"""SigmoidCrossEntropyLoss: many yes-or-no questions at once."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import item_rows, register
from ..proto import brew_pb2 as pb
from .active_set import ActiveSetLossLayer
from .loss import normalizer
from .whole_numbers import whole_numbers


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLossLayer(ActiveSetLossLayer):
    """The cross entropy of sigmoid(x) with targets in [0, 1], summed over all elements and divided by N.

        layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "scores" bottom: "targets" top: "loss" }

    Bottoms:  scores and targets, (N, ...) of equal counts; optionally a weight for each item (N).
    Tops:     the loss, a scalar; optionally each item's loss (N).

    loss_param.ignore_label     elements with this target do not count.
    loss_param.normalization    BATCH_SIZE (default), VALID, FULL or NONE; see SoftmaxWithLoss.
    loss_param.label_lists      bottom 1 is (N, L), each item's labels, padded by -1, for scores (N, C): the target is
                                1 at an item's labels and 0 elsewhere. An item without labels has the loss 0 and no
                                gradient (unlike targets that are all 0), and does not count for VALID. Excludes
                                ignore_label.
    """

    kernel, default = "active_sigmoid_forward", pb.LossParameter.BATCH_SIZE

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.param.loss_param.label_lists:
            self.reshape_sets(bottom, top, False)
            return
        self.check_batch(bottom)
        self.require(bottom[0].count == bottom[1].count, f"both bottoms need the same number of values: the shapes are {bottom[0].shape} and {bottom[1].shape}", "bottom")
        self.set_items(bottom, top, bottom[0].shape[:1])
        self.rows = item_rows(bottom[0].shape)
        self.view = (self.rows[0], 1, self.rows[1])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.loss_param
        if p.label_lists:
            self.forward_sets(bottom, top, False)
            return
        x, target = bottom[0].value.read(), bottom[1].value.read().reshape(bottom[0].shape)
        self.counts = (whole_numbers(xp, target) != p.ignore_label) if p.HasField("ignore_label") else xp.ones(x.shape, bool)
        losses = xp.maximum(x, 0) - x * target + xp.log1p(xp.exp(-abs(x)))          # neither sign overflows
        divisor = normalizer(p, self.view, int(self.counts.sum()), pb.LossParameter.BATCH_SIZE)
        self.finish(bottom, top, (losses * self.counts).reshape(self.rows).sum(1), divisor)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down)
        if propagate_down[0] and self.param.loss_param.label_lists:
            self.backward_sets(bottom, top)
        elif propagate_down[0]:
            x, target = bottom[0].value.read(), bottom[1].value.read().reshape(bottom[0].shape)
            dx = bottom[0].gradient.write()
            self.k.sigmoid_forward(x, dx)
            dx -= target
            dx *= self.counts
            dx = dx.reshape(self.rows)
            dx *= self.slope(bottom, top)
