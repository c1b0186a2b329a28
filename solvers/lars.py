"""LARS: a rate for each parameter, in proportion to its norm."""
from __future__ import annotations

from ..engine.arena import Slot, Span
from math import sqrt
from typing import cast

from .sgd import SGDSolver
from .solver import register


@register("LARS")
class LARSSolver(SGDSolver):
    """SGD with the rate multiplied by trust_coefficient |weight| / (|gradient| + decay |weight|) for each parameter.

        type: "LARS" base_lr: 6.4 momentum: 0.9 weight_decay: 0.0005 trust_coefficient: 0.001

    You, Gitman, Ginsburg, "Large batch training of convolutional networks" (2017), algorithm 1. Parameters of one axis, which
    are biases and scales, and those whose weights or gradients are all zero keep SGD's rate. The history is SGD's.
    """

    by_parameter = True

    def update(self, span: Span, rate: float, scale: float, decay: float) -> None:
        if len(cast(Slot, span).blob.shape) > 1:
            w, g, _ = self.parts(span)
            weight, gradient = sqrt(self.kernels.sum_squares(w)), scale * sqrt(self.kernels.sum_squares(g))
            if weight > 0 and gradient > 0:
                rate *= self.param.trust_coefficient * weight / (gradient + decay * weight)
        super().update(span, rate, scale, decay)
