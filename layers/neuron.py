"""ReLU, Sigmoid and TanH: activations, element by element, in any layout and in place."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.layout import PLAIN
from ..engine.memory import Memory


class NeuronLayer(Layer):
    """A function of each value. The gradient is computed from the result, so that the layer may run in place."""

    keeps_zero = True                    # f(0) = 0, so that the padding of a layout stays zero
    backward_uses: Sequence[str] = ("top",)

    def layout(self, memory: Memory) -> Any:
        layout = memory.layout
        return layout if layout is PLAIN or self.keeps_zero or not layout.padded else PLAIN

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout = self.layout(bottom[0].value)
        x = bottom[0].value.read(layout)
        self.apply(x, top[0].value.write(layout))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            layout = self.layout(top[0].value)
            y, dy = top[0].value.read(layout), top[0].gradient.read(layout)
            self.differentiate(y, dy, bottom[0].gradient.write(layout))

    def apply(self, x: object, y: object) -> None: ...
    def differentiate(self, y: object, dy: object, dx: object) -> None: ...


class FunctionLayer(NeuronLayer):
    """One of the functions with three constants of kernels/include/neuron.h. In place, it keeps a copy of its input."""

    function = ""
    backward_uses = ("bottom", "top")

    def constants(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.args = self.constants()

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout = self.layout(bottom[0].value)
        x = bottom[0].value.read(layout)
        if bottom[0] is top[0]:
            self.remember(x, layout, bottom[0].shape)
        getattr(self.k, f"{self.function}_forward")(x, top[0].value.write(layout), *self.args)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            source = self.before if bottom[0] is top[0] else bottom[0].value
            layout = self.layout(source)
            x, y, dy = source.read(layout), top[0].value.read(layout), top[0].gradient.read(layout)
            getattr(self.k, f"{self.function}_backward")(x, y, dy, bottom[0].gradient.write(layout), *self.args)


@register("ReLU")
class ReLULayer(NeuronLayer):
    """max(x, 0) + negative_slope min(x, 0).

        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }

    Bottom, top:  any shape.
    negative_slope   default 0. In place it must not be negative: the sign of x is read from the result.
    """

    backward_uses, needs_sign, keeps_sign = ("bottom",), True, True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.slope = self.param.relu_param.negative_slope
        self.require(self.slope >= 0 or bottom[0] is not top[0], "in place, negative_slope must not be negative: the sign of x could not be told from the result", "relu_param.negative_slope")

    def apply(self, x: object, y: object) -> None:
        self.k.relu_forward(x, y, self.slope)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """From x, or in place from the result, which has its sign."""
        if propagate_down[0]:
            source = bottom[0].value
            layout = source.layout
            x, dy = source.read(layout), top[0].gradient.read(layout)
            self.k.relu_backward(x, dy, bottom[0].gradient.write(layout), self.slope)


@register("Sigmoid")
class SigmoidLayer(NeuronLayer):
    """1 / (1 + e^-x).

        layer { name: "s" type: "Sigmoid" bottom: "x" top: "y" }

    Bottom, top:  any shape.
    """

    keeps_zero = False

    def apply(self, x: object, y: object) -> None:
        self.k.sigmoid_forward(x, y)

    def differentiate(self, y: object, dy: object, dx: object) -> None:
        self.k.sigmoid_backward(y, dy, dx)


@register("TanH")
class TanHLayer(NeuronLayer):
    """The hyperbolic tangent.

        layer { name: "t" type: "TanH" bottom: "x" top: "y" }

    Bottom, top:  any shape.
    """

    def apply(self, x: object, y: object) -> None:
        self.k.tanh_forward(x, y)

    def differentiate(self, y: object, dy: object, dx: object) -> None:
        self.k.tanh_backward(y, dy, dx)
