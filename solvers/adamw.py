"""AdamW: Adam whose weights decay apart from the gradient."""
from __future__ import annotations

from typing import Any

from .adam import AdamSolver
from .solver import register


@register("AdamW")
class AdamWSolver(AdamSolver):
    """Adam's step from the gradient alone, and weight -= rate decay weight besides.

        type: "AdamW" base_lr: 0.001 momentum: 0.9 momentum2: 0.999 weight_decay: 0.01

    Loshchilov and Hutter, ICLR 2019; the decay is weight_decay times the parameter's decay_mult, for the weight (L2) or its
    sign (L1), and follows the learning rate. Histories as Adam's.
    """

    kernel = "adamw_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        p = self.param
        return scale, decay, self.l1, rate, self.correction(), p.momentum, p.momentum2, p.delta
