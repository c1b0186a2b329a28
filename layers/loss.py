"""What all losses have in common: a sum over items, a weight for each if it is given, and the items' own losses."""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, between
from ..proto import brew_pb2 as pb
from .whole_numbers import whole_numbers


class LossLayer(Layer):
    """A layer that compares bottom 0 with bottom 1 and makes a scalar: the sum of the items' losses over a divisor.

    After the `compared` bottoms may stand one more, a weight for each item's loss; after the `results` tops one more, which
    gets each item's loss, unweighted and undivided.
    """

    compared, results = 2, 1
    is_loss, in_place = True, False
    takes_lists = False                  # whether loss_param.label_lists is for it

    def __init_subclass__(cls) -> None:
        if "bottoms" not in cls.__dict__:
            cls.bottoms = between(cls.compared, cls.compared + 1)
        if "tops" not in cls.__dict__:
            cls.tops = between(cls.results, cls.results + 1)

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def check_batch(self, bottom: list[Blob]) -> None:
        a, b = bottom[0].shape, bottom[1].shape
        self.require(bool(a) and bool(b) and a[0] == b[0], f"both bottoms need the same number of items: the shapes are {a} and {b}")

    def set_items(self, bottom: list[Blob], top: list[Blob], shape: tuple[int, ...]) -> None:
        """Shape the loss and, if it is asked for, the top with each item's loss; `shape` is that of the items."""
        self.require(self.takes_lists or not self.param.loss_param.label_lists,
                     "label_lists is for SoftmaxWithLoss and SigmoidCrossEntropyLoss", "loss_param.label_lists")
        self.count = prod(shape)
        top[0].reshape()
        if len(top) > self.results:
            top[self.results].reshape(*shape)
            self.require(not any(list(self.param.loss_weight)[self.results:]), "the items' losses have no gradient of their own: their loss_weight is 0", "loss_weight")
        if len(bottom) > self.compared:
            found = bottom[self.compared].count
            self.require(found in (self.count, shape[0] if shape else 1), f"there are {self.count} items and {found} weights", f"bottom[{self.compared}]")

    def weights(self, bottom: list[Blob]) -> Any:
        """The items' weights (count,), or None."""
        if len(bottom) <= self.compared:
            return None
        w = bottom[self.compared].value.read().reshape(-1)
        return w if w.size == self.count else self.device.xp.repeat(w, self.count // w.size)

    def finish(self, bottom: list[Blob], top: list[Blob], each: Any, divisor: float) -> None:
        """Write the tops from each item's loss (count,)."""
        w = self.weights(bottom)
        self.divisor = divisor or 1.0                  # the loss of no items is 0
        top[0].value.write()[...] = (each if w is None else each * w).sum() / self.divisor
        if len(top) > self.results:
            top[self.results].value.write().reshape(-1)[...] = each

    def slope(self, bottom: list[Blob], top: list[Blob]) -> Any:
        """What an item's gradient is multiplied by: (count, 1), or a number."""
        factor = self.device.xp.float32(float(top[0].gradient.read()) / self.divisor)
        w = self.weights(bottom)
        return factor if w is None else (w * factor)[:, None]

    def refuse(self, propagate_down: list[bool], first: int = 1) -> None:
        """Labels, targets and weights, the bottoms from `first` on, have no gradient."""
        self.require(not any(propagate_down[first:]), "labels, targets and weights have no gradient; put propagate_down: false here", "propagate_down")


def normalizer(p: Any, view: tuple[int, int, int], counted: int, default: int = pb.LossParameter.VALID) -> float:
    """What a loss over (outer, classes, inner) positions is divided by, `counted` of them not ignored."""
    mode = p.normalization if p.HasField("normalization") else default
    if not p.HasField("normalization") and p.HasField("normalize"):
        mode = p.VALID if p.normalize else p.BATCH_SIZE
    outer, _, inner = view
    return max(1.0, float({p.FULL: outer * inner, p.VALID: counted, p.BATCH_SIZE: outer, p.NONE: 1, p.PRE_FIXED: p.pre_fixed_normalizer}[mode]))


def class_weights(layer: Layer, labels: Any, classes: int) -> Any:
    """loss_param.class_weighting of each label, or None; labels beyond the classes (ignored ones) get the nearest's."""
    p, xp = layer.param.loss_param, layer.device.xp
    if not p.class_weighting or not p.weight_by_label_freqs:
        return None
    layer.require(len(p.class_weighting) == classes, f"class_weighting needs a weight for each of the {classes} classes, found {len(p.class_weighting)}", "loss_param.class_weighting")
    return xp.asarray(np.array(p.class_weighting, np.float32))[xp.clip(whole_numbers(xp, labels.reshape(-1)), 0, classes - 1)]
