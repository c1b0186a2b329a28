"""Embed, BatchReindex: rows chosen by their numbers."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, item_rows, register
from .whole_numbers import integers, refuse


class RowLayer(Layer):
    """What picks rows of a matrix by the whole numbers in a blob."""

    in_place = False
    backward_uses = ()

    def rows(self, blob: Blob, count: int) -> Any:
        """The row numbers in a blob, checked, as int32."""
        index = integers(blob.value).reshape(-1)
        refuse(self, (index < 0) | (index >= count), blob.value,
               f"a row number must lie between 0 and {count - 1}, found {{value}}", "bottom")
        return index.copy()                      # others may convert the blob again before backward comes


@register("Embed")
class EmbedLayer(RowLayer):
    """Row i of a learned matrix for every input i: an InnerProduct of one-hot vectors, without the vectors.

        layer { name: "embed" type: "Embed" bottom: "words" top: "vectors"
                embed_param { input_dim: 8801 num_output: 300 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }

    Bottom:  any shape, whole numbers in 0..input_dim-1; it gets no gradient.      Top:  the bottom's shape and num_output.
    Blobs:   weights (input_dim, num_output), and bias (num_output) unless bias_term is false.

    sparse_gradient   the gradient of the weights has the rows that occur in the batch, and only these change in that step:
                      other rows have no decay and no momentum, and nothing is caught up later. For large input_dim.
    """

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.embed_param
        self.require(p.num_output > 0, "num_output must be given, and be more than 0", "embed_param.num_output")
        self.require(p.input_dim > 0, "input_dim must be given, and be more than 0", "embed_param.input_dim")
        self.add_blob((p.input_dim, p.num_output), p.weight_filler, 0 if p.sparse_gradient else None)
        if p.bias_term:
            self.add_blob((p.num_output,), p.bias_filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].shape, self.param.embed_param.num_output)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        w, *bias = (blob.value.read() for blob in self.blobs)
        self.index = self.rows(bottom[0], w.shape[0])
        y = top[0].value.write()
        y.reshape(-1, w.shape[1])[...] = w[self.index] + bias[0] if bias else w[self.index]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[0], "row numbers have no gradient; put propagate_down: false here", "propagate_down")
        dy, outputs = top[0].gradient.read(), self.blobs[0].shape[1]
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            self.k.scale_gradients(None, dy, None, self.blobs[1].gradient.adding(), (dy.size // outputs, outputs, 1, 1, outputs))
        if self.param_propagate_down[0]:
            sparse = self.blobs[0].sparse
            if sparse is not None:
                sparse.accumulate(*sums_of_rows(self, self.index, self.blobs[0].shape[0], dy, None, 1))
            else:
                self.k.add_rows(dy, self.index, self.blobs[0].gradient.adding(), outputs)


def sums_of_rows(layer: Layer, index: Any, count: int, dy: Any, scale: Any, width: int) -> tuple[Any, Any]:
    """(rows, values (R, C)): for each row number below `count` that occurs in `index` (M), -1 being none, the sum of the rows
    of dy (M / width, C) where it stands, times `scale` (M)."""
    columns = dy.size // (index.size // width) if index.size else 1
    rows, order, starts = layer.k.group_rows(index, count)
    values = layer.device.xp.empty((len(rows), columns), np.float32)
    if len(rows):
        layer.k.sum_rows(dy, scale, order, starts, values, width, columns)
    return rows, values


@register("BatchReindex")
class BatchReindexLayer(RowLayer):
    """Items of bottom 0 in the order that bottom 1 gives; items may be left out and repeated.

        layer { name: "choose" type: "BatchReindex" bottom: "x" bottom: "order" top: "y" }

    Bottoms:  (N, ...), and (M): whole numbers in 0..N-1, which get no gradient.      Top:  (M, ...).
    """

    bottoms = exactly(2)

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(len(bottom[1].shape) == 1, f"bottom 1 needs one axis, found the shape {bottom[1].shape}", "bottom[1]")
        self.items(bottom[0])
        top[0].reshape(bottom[1].shape[0], *bottom[0].shape[1:])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.index = self.rows(bottom[1], bottom[0].shape[0])
        top[0].value.write()[...] = bottom[0].value.read()[self.index]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "row numbers have no gradient", "propagate_down")
        if propagate_down[0]:
            bottom[0].gradient.clear()
            dy, dx = top[0].gradient.read(), bottom[0].gradient.adding()
            self.k.add_rows(dy, self.index, dx, item_rows(bottom[0].shape)[1])
