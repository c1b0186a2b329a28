"""Power, Exp and Log: of a linear function of each value."""
from __future__ import annotations

from math import log

from ..engine.layer import register
from .neuron import FunctionLayer


@register("Power")
class PowerLayer(FunctionLayer):
    """(shift + scale x)^power.

        layer { name: "square" type: "Power" bottom: "x" top: "y" power_param { power: 2 scale: 0.5 shift: 1 } }

    Bottom, top:  any shape.      power, scale, shift   default 1, 1, 0.
    Where power or scale is 0 the result is constant and has no gradient.
    """

    function, keeps_zero = "power", False

    def constants(self) -> tuple[float, float, float]:
        p = self.param.power_param
        return p.scale, p.shift, p.power


@register("Exp")
class ExpLayer(FunctionLayer):
    """base^(shift + scale x).

        layer { name: "exp" type: "Exp" bottom: "x" top: "y" exp_param { base: 2 } }

    Bottom, top:  any shape.      base   default -1, which means e; else > 0.      scale, shift   default 1, 0.
    """

    function, keeps_zero = "exponential", False

    def constants(self) -> tuple[float, float, float]:
        p = self.param.exp_param
        self.require(p.base > 0 or p.base == -1, f"base must be more than 0, or -1 for e; found {p.base:g}", "exp_param.base")
        base = 1.0 if p.base == -1 else log(p.base)
        return base * p.scale, float(2.718281828459045 ** (base * p.shift)), 0.0


@register("Log")
class LogLayer(FunctionLayer):
    """The logarithm to `base` of shift + scale x.

        layer { name: "log" type: "Log" bottom: "x" top: "y" log_param { base: 10 } }

    Bottom, top:  any shape.      base   default -1, which means e; else > 0.      scale, shift   default 1, 0.
    """

    function, keeps_zero = "logarithm", False

    def constants(self) -> tuple[float, float, float]:
        p = self.param.log_param
        self.require(p.base > 0 and p.base != 1 or p.base == -1, f"base must be more than 0 and not 1, or -1 for e; found {p.base:g}", "log_param.base")
        return p.scale, p.shift, 1.0 if p.base == -1 else 1 / log(p.base)
