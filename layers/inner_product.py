"""InnerProduct: every output is a weighted sum of all inputs."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, between, register
from ..engine.memory import ByColumns, Memory
from .embed import sums_of_rows
from .whole_numbers import integers, refuse


@register("InnerProduct")
class InnerProductLayer(Layer):
    """A fully connected layer: y = x W^T + b, the axes from `axis` on taken as one vector.

        layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
                inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }

    Bottom:  (batch..., inputs...), `axis` says where the inputs begin. With input_dim, a pair: values (N, S) and indices
             (N, S), whole numbers in 0..input_dim-1 or -1 for padding; the indices get no gradient.
    Top:     (batch..., num_output).
    Blobs:   weights (num_output, inputs), or (inputs, num_output) with transpose; and bias (num_output) unless
             bias_term is false.

    input_dim         how many inputs there are, of which the pair of bottoms gives those that are not zero. S may change from
                      batch to batch. Gradients of the weights are row-sparse, a row being an input; in memory it lies in one
                      piece, and `blob.data` is a view with strides.
    sparse_gradient   only weights of outputs that got a gradient change in a step: other outputs' have no decay and no
                      momentum, and nothing is caught up later. For layers whose top is read in few places.
    """

    bottoms = between(1, 2)
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.inner_product_param
        self.pair, self.outputs, self.transposed = p.HasField("input_dim"), p.num_output, p.transpose
        self.require(self.outputs > 0, "num_output must be given, and be more than 0", "inner_product_param.num_output")
        self.require(len(bottom) == 1 + self.pair, "takes values and indices where input_dim is given, else one bottom; "
                     f"found {len(bottom)}", "bottom")
        if self.pair:
            self.first, self.inputs = 1, p.input_dim
            self.require(self.inputs > 0, "input_dim must be more than 0", "inner_product_param.input_dim")
            self.require(not p.HasField("sparse_gradient") or p.sparse_gradient,
                         "with input_dim, gradients of the weights are row-sparse", "inner_product_param.sparse_gradient")
        else:
            self.first = self.axis(p.axis, len(bottom[0].shape), "inner_product_param.axis")
            self.inputs = prod(bottom[0].shape[self.first:])
            self.require(self.inputs > 0, f"the bottom's shape {bottom[0].shape} leaves no inputs", "bottom")
            self.require(not (p.sparse_gradient and self.transposed), "sparse_gradient is for rows of weights, and transpose "
                         "makes columns of them: leave it out", "inner_product_param.sparse_gradient")
        axis = (0 if self.transposed else 1) if self.pair else 0 if p.sparse_gradient else None
        self.by_rows = axis is not None          # whether gradients of the weights are row-sparse
        self.add_blob((self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs), p.weight_filler,
                      axis)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        if self.pair:
            check_pair(self, bottom)
        else:
            self.require(prod(shape[self.first:]) == self.inputs, f"the weights are for {self.inputs} inputs; the shape is now {shape}, which has {prod(shape[self.first:])}", "bottom")
        self.rows = prod(shape[:self.first])
        top[0].reshape(*shape[:self.first], self.outputs)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        weights, *bias = self.blobs
        y, w = top[0].value.write(), weights.value
        if bias:
            y.reshape(self.rows, self.outputs)[...] = bias[0].value.read()
        if self.pair:
            if not bias:
                y[...] = 0
            self.index = pair_indices(self, bottom[1], self.inputs)
            self.k.rows_forward(bottom[0].value.read(), self.index, by_input(w), y, self.rows, self.outputs)
            return
        turned = isinstance(w, ByColumns)                # another net's, which reads pairs and shares its weights
        self.device.gemm(False, turned == self.transposed, self.rows, self.outputs, self.inputs, bottom[0].value.read(),
                         by_input(w) if turned else w.read(), y, 1.0 if bias else 0.0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """The gradient of the weights last: a solver may update row-sparse ones at once."""
        weights, *bias = self.blobs
        dy, rows, outputs, inputs, w = top[0].gradient.read(), self.rows, self.outputs, self.inputs, weights.value
        if bias and self.param_propagate_down[1]:
            self.k.scale_gradients(None, dy, None, bias[0].gradient.adding(), (rows, outputs, 1, 1, outputs))
        if self.pair:
            self.require(not propagate_down[1], "indices have no gradient; put propagate_down: false here",
                         "propagate_down")
        if propagate_down[0]:
            dx = bottom[0].gradient.write()
            if self.pair:
                self.k.rows_backward(dy, self.index, by_input(w), dx, rows, outputs)
            else:
                turned = isinstance(w, ByColumns)
                self.device.gemm(False, turned != self.transposed, rows, inputs, outputs, dy,
                                 by_input(w) if turned else w.read(), dx, 0.0)
        if self.param_propagate_down[0] and self.by_rows:
            self.backward_rows(bottom[0].value.read(), dy)
        elif self.param_propagate_down[0]:
            dw, beta = weights.gradient.accumulate()
            a, b, m, n = (bottom[0].value.read(), dy, inputs, outputs) if self.transposed else (dy,
                    bottom[0].value.read(), outputs, inputs)
            self.device.gemm(True, False, m, n, rows, a, b, dw, beta)

    def backward_rows(self, x: Any, dy: Any) -> None:
        """Add to a row-sparse gradient: of the inputs of a pair, or of the outputs that got a gradient."""
        sparse, xp = self.blobs[0].sparse, self.device.xp
        assert sparse is not None
        if self.pair:
            if x.size:
                sparse.accumulate(*sums_of_rows(self, self.index.reshape(-1), self.inputs, dy, x, x.shape[1]))
            return
        slopes = dy.reshape(self.rows, self.outputs)
        found = xp.flatnonzero((slopes != 0).any(0)).astype(np.int32)
        values, slopes = xp.empty((len(found), self.inputs), np.float32), xp.ascontiguousarray(slopes[:, found])
        if len(found):
            self.device.gemm(True, False, len(found), self.inputs, self.rows, slopes, x, values, 0.0)
        sparse.accumulate(found, values)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return bottom[:1]

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * self.outputs * (bottom[0].count if self.pair else self.rows * self.inputs)


def check_pair(layer: Layer, bottom: list[Blob]) -> None:
    """Raise NetError unless bottoms 0 and 1 can be a pair."""
    shape = bottom[0].shape
    layer.require(len(shape) == 2 and bottom[1].shape == shape, "values and indices need one shape (N, S), found "
                  f"{shape} and {bottom[1].shape}", "bottom[1]")


def pair_indices(layer: Layer, blob: Blob, inputs: int) -> Any:
    """The indices of a pair, checked, as int32."""
    index = integers(blob.value)
    refuse(layer, (index < -1) | (index >= inputs), blob.value,
           f"an index must lie between 0 and {inputs - 1}, or be -1, found {{value}}", "bottom[1]")
    return index.copy()                          # others may convert the blob again before backward comes


def by_input(weights: Memory) -> Any:
    """The weights of a pair, a contiguous row for each input."""
    return weights.columns() if isinstance(weights, ByColumns) else weights.read()
