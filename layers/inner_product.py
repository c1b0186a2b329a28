"""InnerProduct: every output is a weighted sum of all inputs."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..engine.blob import Blob
from ..engine.layer import Layer, register


@register("InnerProduct")
class InnerProductLayer(Layer):
    """A fully connected layer: y = x W^T + b, the axes from `axis` on taken as one vector.

        layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
                inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }

    Bottom:  (batch..., inputs...), `axis` says where the inputs begin.
    Top:     (batch..., num_output).
    Blobs:   weights (num_output, inputs), or (inputs, num_output) with transpose; and bias (num_output) unless
             bias_term is false.
    """

    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.inner_product_param
        self.first = self.axis(p.axis, len(bottom[0].shape), "inner_product_param.axis")
        self.inputs, self.outputs, self.transposed = prod(bottom[0].shape[self.first:]), p.num_output, p.transpose
        self.require(self.outputs > 0, "num_output must be given, and be more than 0", "inner_product_param.num_output")
        self.require(self.inputs > 0, f"the bottom's shape {bottom[0].shape} leaves no inputs", "bottom")
        self.add_blob((self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs), p.weight_filler)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(prod(shape[self.first:]) == self.inputs, f"the weights are for {self.inputs} inputs; the shape is now {shape}, which has {prod(shape[self.first:])}", "bottom")
        self.rows = prod(shape[:self.first])
        top[0].reshape(*shape[:self.first], self.outputs)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        w, *bias = self.blobs
        y = top[0].value.write()
        if bias:
            y.reshape(self.rows, self.outputs)[...] = bias[0].value.read()
        self.device.gemm(False, not self.transposed, self.rows, self.outputs, self.inputs, bottom[0].value.read(), w.value.read(), y, 1.0 if bias else 0.0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        w, *bias = self.blobs
        dy, rows, outputs, inputs = top[0].gradient.read(), self.rows, self.outputs, self.inputs
        if self.param_propagate_down[0]:
            dw, beta = w.gradient.accumulate()
            x = bottom[0].value.read()
            if self.transposed:
                self.device.gemm(True, False, inputs, outputs, rows, x, dy, dw, beta)
            else:
                self.device.gemm(True, False, outputs, inputs, rows, dy, x, dw, beta)
        if bias and self.param_propagate_down[1]:
            self.k.scale_gradients(None, dy, None, bias[0].gradient.adding(), (rows, outputs, 1, 1, outputs))
        if propagate_down[0]:
            self.device.gemm(False, self.transposed, rows, inputs, outputs, dy, w.value.read(), bottom[0].gradient.write(), 0.0)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return bottom

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * self.rows * self.outputs * self.inputs
