"""Deconvolution: a convolution run backwards, which makes images larger."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from . import conv_engines
from .convolution import ConvolutionLayer
from .windows import check_windows


@register("Deconvolution")
class DeconvolutionLayer(ConvolutionLayer):
    """Multiplies each pixel by a filter and adds up what overlaps: forward is a convolution's gradient, and the other way.

        layer { name: "up" type: "Deconvolution" bottom: "score" top: "up" param { lr_mult: 0 }
                convolution_param { num_output: 21 kernel_size: 4 stride: 2 pad: 1 group: 21 bias_term: false weight_filler { type: "bilinear" } } }

    Bottoms:  (N, C, spatial...) each, all of one shape.
    Tops:     (N, num_output, spatial'...), one for each bottom, with
              spatial' = stride (spatial - 1) + dilation (kernel - 1) + 1 - 2 pad.
    Blobs:    weights (C, num_output / group, kernel...), and bias (num_output) unless bias_term is false.

    Parameters are Convolution's; it runs as a matrix product and col2im on every engine.
    """

    def weight_shape(self) -> tuple[int, ...]:
        return (self.channels, self.outputs // self.groups, *self.kernel)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_shapes(bottom)
        shape = bottom[0].shape
        batch, spatial = shape[:self.channel_axis], self.pixels(shape)
        out = tuple(st * (s - 1) + d * (k - 1) + 1 - 2 * p for s, p, d, k, st in zip(spatial, self.pad, self.dilation, self.kernel, self.stride))
        self.require(all(o > 0 for o in out), f"pad {self.pad} leaves nothing of the result", "convolution_param.pad")
        check_windows(self, "convolution_param", out, self.kernel, self.stride, self.pad, self.dilation)
        for blob in top:
            blob.reshape(*batch, self.outputs, *out)
        # The convolution whose gradient this is reads our tops and makes our bottoms.
        self.args = conv_engines.kernel_args(conv_engines.Geometry((prod(batch), self.outputs, *out), (prod(batch), self.channels, *spatial), self.kernel,
                                                                   self.stride, self.pad, self.dilation, self.groups))
        self.bias_grid = (prod(batch), self.outputs, prod(out), 1, self.outputs)

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        return False

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        w, *bias = (blob.value.read() for blob in self.blobs)
        for x, y in zip(bottom, top):
            out = y.value.write()
            if not out.size:
                continue
            self.k.conv_backward_data(x.value.read(), w, out, *self.args)
            if bias:
                self.k.scale_forward(out, None, bias[0], out, self.bias_grid)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        w, *bias = self.blobs
        for y, x, down in zip(top, bottom, propagate_down):
            dy: Any = y.gradient.read()
            if not dy.size:                                        # no images: gradients stay as they are
                if down:
                    x.gradient.write()
                continue
            if self.param_propagate_down[0]:
                dw, beta = w.gradient.accumulate()
                self.k.conv_backward_weights(dy, x.value.read(), dw, None, beta, *self.args)
            if bias and self.param_propagate_down[1]:
                self.k.scale_gradients(None, dy, None, bias[0].gradient.adding(), self.bias_grid)
            if down:
                self.k.conv_forward(dy, w.value.read(), None, x.gradient.write(), *self.args)

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * sum(b.count for b in bottom) * self.outputs // self.groups * prod(self.kernel)
