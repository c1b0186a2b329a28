"""RMSProp: rates divided by a running root mean square."""
from __future__ import annotations

from .solver import Solver, register


@register("RMSProp")
class RMSPropSolver(Solver):
    """h = rms_decay h + (1 - rms_decay) g^2;  weight -= rate g / (sqrt(h) + delta).

        type: "RMSProp" base_lr: 0.01 rms_decay: 0.98

    Tieleman and Hinton, Coursera lecture 6.5 (2012).  momentum must be 0, rms_decay in [0, 1).
    """

    histories, takes_momentum = 1, False

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.param.rms_decay < 1:
            self._fail(f"rms_decay must be at least 0 and less than 1, found {self.param.rms_decay:g}")

    def update(self, slot: int, rate: float, scale: float, decay: float) -> None:
        self.kernels.rmsprop_update(*self.parts(slot), scale, decay, self.l1, rate, self.param.rms_decay, self.param.delta)
