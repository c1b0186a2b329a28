"""Nesterov: momentum that looks ahead."""
from __future__ import annotations

from ..engine.arena import Span
from .solver import Solver, register


@register("Nesterov")
class NesterovSolver(Solver):
    """h' = momentum h + rate (gradient + decay);  weight -= (1 + momentum) h' - momentum h.

        type: "Nesterov" base_lr: 0.01 momentum: 0.9

    Nesterov 1983, in the form of Sutskever et al., ICML 2013, section 2.
    """

    histories = 1

    def update(self, span: Span, rate: float, scale: float, decay: float) -> None:
        self.kernels.nesterov_update(*self.parts(span), scale, decay, self.l1, rate, self.param.momentum)
