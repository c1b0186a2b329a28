"""AdaGrad: rates that shrink with the gradients so far."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("AdaGrad")
class AdaGradSolver(Solver):
    """h += g^2;  weight -= rate g / (sqrt(h) + delta), where g is the gradient with its decay.

        type: "AdaGrad" base_lr: 0.01 delta: 1e-8

    Duchi, Hazan, Singer, JMLR 12 (2011).  momentum must be 0.
    """

    histories, takes_momentum, kernel = 1, False, "adagrad_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        return scale, decay, self.l1, rate, self.param.delta
