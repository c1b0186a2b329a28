"""Im2col: what a kernel sees at each place, as channels."""
from __future__ import annotations

from math import prod
from typing import Any

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
        batch, channels, spatial = shape[:self.channel_axis], shape[self.channel_axis], self.pixels(shape)
        out = self.slide(spatial)
        top[0].reshape(*batch, channels * prod(self.kernel), *out)
        self.images, self.channels = prod(batch), channels
        self.sizes = [prod(blob.shape[self.channel_axis:]) for blob in (bottom[0], top[0])]     # of an image
        self.shape = axis_values(spatial, out, self.kernel, self.stride, self.pad, self.dilation)

    def _images(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The bottom's and the top's array with a row for each image."""
        return x.reshape(self.images, self.sizes[0]), y.reshape(self.images, self.sizes[1])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y = self._images(bottom[0].value.read(), top[0].value.write())
        for n in range(self.images):
            self.k.im2col(x[n], y[n], self.channels, self.shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dx, dy = self._images(bottom[0].gradient.write(), top[0].gradient.read())
            for n in range(self.images):
                self.k.col2im(dy[n], dx[n], self.channels, self.shape)
