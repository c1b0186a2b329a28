"""SGD: stochastic gradient descent with momentum."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("SGD")
class SGDSolver(Solver):
    """h = momentum h + rate (gradient + decay);  weight -= h.

        type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005

    The rate is that of lr_policy times the parameter's lr_mult; the decay weight_decay times its decay_mult, times the
    weight (L2) or its sign (L1). The history is one array per parameter.
    """

    histories, kernel = 1, "sgd_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        return scale, decay, self.l1, rate, self.param.momentum
