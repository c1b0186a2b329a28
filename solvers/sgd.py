"""SGD: stochastic gradient descent with momentum."""
from __future__ import annotations

from ..engine.arena import Span
from .solver import Solver, register


@register("SGD")
class SGDSolver(Solver):
    """h = momentum h + rate (gradient + decay);  weight -= h.

        type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005

    The rate is that of lr_policy times the parameter's lr_mult; the decay weight_decay times its decay_mult, times the
    weight (L2) or its sign (L1). The history is one array per parameter.
    """

    histories = 1

    def update(self, span: Span, rate: float, scale: float, decay: float) -> None:
        self.kernels.sgd_update(*self.parts(span), scale, decay, self.l1, rate, self.param.momentum)
