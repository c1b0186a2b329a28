"""Nesterov: momentum that looks ahead."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("Nesterov")
class NesterovSolver(Solver):
    """h' = momentum h + rate (gradient + decay);  weight -= (1 + momentum) h' - momentum h.

        type: "Nesterov" base_lr: 0.01 momentum: 0.9

    Nesterov 1983, in the form of Sutskever et al., ICML 2013, section 2.
    """

    histories, kernel = 1, "nesterov_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        return scale, decay, self.l1, rate, self.param.momentum
