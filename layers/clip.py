"""AbsVal, Clip, ReLU6 and Threshold: functions with corners."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import register
from .neuron import FunctionLayer


@register("AbsVal")
class AbsValLayer(FunctionLayer):
    """The absolute value; its gradient at 0 is 0.

        layer { name: "abs" type: "AbsVal" bottom: "x" top: "y" }

    Bottom, top:  any shape; not in place.
    """

    function, in_place = "absval", False


@register("Clip")
class ClipLayer(FunctionLayer):
    """x, but at least min and at most max. The gradient passes where min <= x <= max.

        layer { name: "clip" type: "Clip" bottom: "x" top: "y" clip_param { min: 0 max: 6 } }

    Bottom, top:  any shape.      min, max   required.
    """

    function, keeps_zero = "clip", False

    def constants(self) -> tuple[float, float, float]:
        p = self.param.clip_param
        self.require(p.HasField("min") and p.HasField("max"), "min and max must be given", "clip_param")
        self.require(p.min <= p.max, f"min {p.min:g} must not be more than max {p.max:g}", "clip_param.min")
        return p.min, p.max, 0.0


@register("ReLU6")
class ReLU6Layer(FunctionLayer):
    """min(max(x, 0), 6) (Krizhevsky 2010; MobileNets).

        layer { name: "relu1" type: "ReLU6" bottom: "conv1" top: "conv1" }

    Bottom, top:  any shape.
    """

    function = "clip"

    def constants(self) -> tuple[float, float, float]:
        return 0.0, 6.0, 0.0


@register("Threshold")
class ThresholdLayer(FunctionLayer):
    """1 where x > threshold, else 0. It has no gradient: asking for one is an error.

        layer { name: "binary" type: "Threshold" bottom: "x" top: "y" threshold_param { threshold: 0.5 } }

    Bottom, top:  any shape.      threshold   default 0.
    """

    function, keeps_zero = "threshold", False

    def constants(self) -> tuple[float, float, float]:
        return self.param.threshold_param.threshold, 0.0, 0.0

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[0], "a threshold has no gradient; put propagate_down: false above it", "type")
