"""Adam: momentum over a running root mean square."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("Adam")
class AdamSolver(Solver):
    """h1 = m h1 + (1 - m) g;  h2 = m2 h2 + (1 - m2) g^2;  weight -= rate c h1 / (sqrt(h2) + delta),
    with c = sqrt(1 - m2^t) / (1 - m^t) at iteration t = 1, 2, ...

        type: "Adam" base_lr: 0.001 momentum: 0.9 momentum2: 0.999

    Kingma and Ba, ICLR 2015; m is momentum, m2 momentum2. Histories: all h1, then all h2.
    """

    histories, kernel = 2, "adam_update"

    def correction(self) -> float:
        p, t = self.param, self.iter + 1
        return float((1 - p.momentum2**t) ** 0.5 / (1 - p.momentum**t))

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        p = self.param
        return scale, decay, self.l1, rate * self.correction(), p.momentum, p.momentum2, p.delta
