"""Losses over the scores of an active set, or of all outputs, with a list of labels for each item."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.blob import Blob, resized
from ..engine.errors import DataError, fail
from ..engine.layer import item_rows
from ..engine.memory import Memory
from ..engine.store import NO_INT
from ..proto import brew_pb2 as pb
from .loss import LossLayer, normalizer
from .whole_numbers import integers

ONE_LABEL = ("ignore_label", "class_weighting", "label_smoothing")     # fields of loss_param for one label an item


class ActiveSetLossLayer(LossLayer):
    """A loss of scores (N, S) with the units (N, S) that have them, -1 for padding, or without units, of all S outputs;
    and with labels (N, L), each item's units, padded by -1. A label that comes again in its list counts once."""

    takes_lists = True
    kernel, default = "", pb.LossParameter.VALID          # the kernel of forward; what normalization is if not given

    def reshape_sets(self, bottom: list[Blob], top: list[Blob], units: bool) -> None:
        p, label = self.param.loss_param, bottom[self.compared - 1].shape
        for field in ONE_LABEL:
            self.require(not (p.HasField(field) if field == "ignore_label" else getattr(p, field)),
                         f"{field} is for one label an item; bottom {self.compared - 1} has lists of labels",
                         f"loss_param.{field}")
        shapes = [b.shape for b in bottom[:self.compared]]
        self.require(all(shapes), f"needs items, axis 0, in all bottoms; the shapes are {shapes}", "bottom")
        self.require(label[0] == shapes[0][0], f"there are {shapes[0][0]} items and {label[0]} lists of labels, shape "
                     f"{label}", f"bottom[{self.compared - 1}]")
        self.require(not units or shapes[1] == shapes[0], "scores and units need the same shape: the shapes are "
                     f"{shapes[0]} and {shapes[1]}", "bottom[1]")
        self.set_items(bottom, top, shapes[0][:1])
        self.width = item_rows(shapes[0])[1]
        self.scratch = resized(getattr(self, "scratch", Memory()), (self.count, self.width), True)

    def forward_sets(self, bottom: list[Blob], top: list[Blob], units: bool, p: Any = None) -> None:
        """Write the loss. `p` gets the units' shares of it: an array of the scores' shape, or a scratch memory."""
        xp, n = self.device.xp, self.count
        label = integers(bottom[self.compared - 1].value)
        self.p = self.scratch.write() if p is None else p
        self.place = xp.empty(label.shape, np.int32)
        self.scale, self.share, each = (self.device.empty(n) for _ in range(3))
        unit = integers(bottom[1].value) if units else None
        counted, label_at, unit_at = getattr(self.k, self.kernel)(
            bottom[0].value.read(), unit, label, self.p, self.place, self.scale, self.share, each, n)
        if unit_at >= 0:
            self.refuse_number(bottom, 1, unit_at, "unit", "its active set", "is no unit, nor the padding -1")
        if label_at >= 0:
            self.refuse_number(bottom, self.compared - 1, label_at, "label", "its list", "is not in its active set"
                               if units else f"is none of the {self.width} classes, 0 to {self.width - 1}")
        view = (n, 1, 1) if self.default == pb.LossParameter.VALID else (n, 1, self.width)
        self.finish(bottom, top, each, normalizer(self.param.loss_param, view, counted, self.default))

    def backward_sets(self, bottom: list[Blob], top: list[Blob]) -> None:
        """By what forward has read: later changes of units and labels do not matter."""
        weight = float(top[0].gradient.read()) / self.divisor
        dx = bottom[0].gradient.write()
        self.k.active_set_backward(self.p, self.place, self.scale, self.share, self.weights(bottom), dx, self.count,
                                   weight)

    def refuse_number(self, bottom: list[Blob], which: int, at: int, what: str, where: str, wrong: str) -> None:
        """Raise DataError about value number `at` of a bottom."""
        memory, width = bottom[which].value, item_rows(bottom[which].shape)[1]
        number = int(integers(memory).reshape(-1)[at])
        value = f"{float(memory.read().reshape(-1)[at]):g}" if number == NO_INT else str(number)
        fail(self.param, f"item {at // width} of the batch: {what} {value}, number {at % width} of {where}, {wrong}",
             f"bottom[{which}]", DataError)


class SampledLossLayer(ActiveSetLossLayer):
    """A loss that always takes units and lists of labels."""

    compared = 3
    backward_uses: Sequence[str] = ()

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return bottom[self.compared:]                        # the weights

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.loss_param
        self.require(p.label_lists or not p.HasField("label_lists"), "this loss always takes lists of labels",
                     "loss_param.label_lists")
        self.reshape_sets(bottom, top, True)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.forward_sets(bottom, top, True)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Units come from a layer that learns, and have no gradient: it is zero where one is asked for."""
        self.refuse(propagate_down, 2)
        if propagate_down[1]:
            bottom[1].gradient.clear()
        if propagate_down[0]:
            self.backward_sets(bottom, top)
