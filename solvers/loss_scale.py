"""Loss scaling: gradients that are too small for 16 bits are computed from a loss times a factor, and the update
divides by it (Micikevicius et al., Mixed Precision Training, ICLR 2018, section 3.2). `solver.loss_scale` takes one of
these."""
from __future__ import annotations

from math import isfinite

from ..engine.errors import SolverError


class LossScale:
    """A constant factor. An update whose gradients are not finite is left out, and the iteration counts."""

    def __init__(self, factor: float):
        if not (factor > 0 and isfinite(factor)):
            raise SolverError(f"a loss scale must be a number above 0, found {factor:g}")
        self.factor = float(factor)
        self.good = 0                        # updates since the last one that was left out

    def report(self, finite: bool) -> None:
        """Called once an iteration: whether all gradients were finite."""
        self.good = self.good + 1 if finite else 0


class DynamicLossScale(LossScale):
    """A factor that is halved when gradients are not finite, and doubled after `interval` updates in a row."""

    def __init__(self, initial: float = 2.0**16, interval: int = 2000, least: float = 1.0):
        super().__init__(initial)
        self.interval, self.least = interval, least

    def report(self, finite: bool) -> None:
        super().report(finite)
        if not finite:
            self.factor = max(self.factor / 2, self.least)
        elif self.good % self.interval == 0:
            self.factor *= 2
