"""AdaDelta: steps in the units of the weights."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("AdaDelta")
class AdaDeltaSolver(Solver):
    """h = m h + (1 - m) g^2;  u = g sqrt((h2 + delta) / (h + delta));  h2 = m h2 + (1 - m) u^2;  weight -= rate u.

        type: "AdaDelta" base_lr: 1 momentum: 0.95 delta: 1e-6

    Zeiler, arXiv 1212.5701 (2012); m is momentum. Histories: all h, then all h2.
    """

    histories, kernel = 2, "adadelta_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        return scale, decay, self.l1, rate, self.param.momentum, self.param.delta
