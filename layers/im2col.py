"""Im2col: what a kernel sees at each place, as channels."""
from __future__ import annotations

from math import prod

from ..engine.blob import Blob
from ..engine.layer import register
from .conv_engines import axis_values
from .convolution import SlidingLayer


@register("Im2col")
class Im2colLayer(SlidingLayer):
    """Copies the pixels under a sliding kernel into channels: a convolution is a matrix product with the result.

        layer { name: "columns" type: "Im2col" bottom: "x" top: "y" convolution_param { kernel_size: 3 pad: 1 } }

    Bottom:  (N, C, spatial...)
    Top:     (N, C * kernel elements, spatial'...), spatial' as for Convolution; channel, then kernel element.
    kernel_size, stride, pad, dilation, axis   as for Convolution.
    """

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.read_geometry(bottom[0].shape)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        batch, channels, spatial = shape[:self.channel_axis], shape[self.channel_axis], shape[self.channel_axis + 1:]
        out = self.slide(spatial)
        top[0].reshape(*batch, channels * prod(self.kernel), *out)
        self.images, self.channels = prod(batch), channels
        self.shape = axis_values(spatial, out, self.kernel, self.stride, self.pad, self.dilation)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y = bottom[0].value.read().reshape(self.images, -1), top[0].value.write().reshape(self.images, -1)
        for n in range(self.images):
            self.k.im2col(x[n], y[n], self.channels, self.shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dy, dx = top[0].gradient.read().reshape(self.images, -1), bottom[0].gradient.write().reshape(self.images, -1)
            for n in range(self.images):
                self.k.col2im(dy[n], dx[n], self.channels, self.shape)
