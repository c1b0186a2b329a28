"""RMSProp: rates divided by a running root mean square."""
from __future__ import annotations

from typing import Any

from .solver import Solver, register


@register("RMSProp")
class RMSPropSolver(Solver):
    """h = rms_decay h + (1 - rms_decay) g^2;  s = momentum s + rate g / (sqrt(h) + delta);  weight -= s.

        type: "RMSProp" base_lr: 0.01 rms_decay: 0.98

    Tieleman and Hinton, Coursera lecture 6.5 (2012); rms_decay in [0, 1). momentum, which Caffe does not allow here, is that
    of Szegedy et al. 2016 and Chollet 2017. Histories: all h, then with momentum all s.
    """

    @property
    def histories(self) -> int:                            # type: ignore[override]
        return 2 if self.param.momentum else 1

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.param.rms_decay < 1:
            self._fail(f"rms_decay must be at least 0 and less than 1, found {self.param.rms_decay:g}")

    @property
    def kernel(self) -> str:                               # type: ignore[override]
        return "rmsprop_momentum_update" if self.param.momentum else "rmsprop_update"

    def constants(self, rate: float, scale: float, decay: float) -> tuple[Any, ...]:
        p = self.param
        return scale, decay, self.l1, rate, p.rms_decay, *((p.momentum,) if p.momentum else ()), p.delta
