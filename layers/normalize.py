"""Normalize: vectors of length one, times a learned scale."""
from __future__ import annotations

from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..proto import brew_pb2 as pb


@register("Normalize")
class NormalizeLayer(Layer):
    """y = scale x / sqrt(sum of x^2 + eps), over channels (Liu et al., ParseNet, 2015, section 3.3; used by SSD).

        layer { name: "conv4_3_norm" type: "Normalize" bottom: "conv4_3" top: "conv4_3_norm"
                norm_param { across_spatial: false channel_shared: false scale_filler { type: "constant" value: 20 } } }

    Bottom, top:  (N, C, ...)
    Blobs:        scale (C), or (1) with channel_shared.

    across_spatial   true (default): one sum for an item; false: one for each position, over its channels.
    channel_shared   true (default): one scale for all channels.
    eps              default 1e-10.
    """

    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.norm_param, bottom[0].shape
        self.require(len(shape) >= 2, f"normalises channels, axis 1; the bottom's shape is {shape}", "bottom")
        filler = p.scale_filler if p.HasField("scale_filler") else pb.FillerParameter(value=1)
        self.add_blob((1 if p.channel_shared else shape[1],), filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, shared = bottom[0].shape, self.param.norm_param.channel_shared
        self.require(shared or shape[1] == self.blobs[0].count, f"the scale is for {self.blobs[0].count} channels; the shape is now {shape}", "bottom")
        top[0].reshape(*shape)
        self.view = (shape[0], shape[1], prod(shape[2:]))
        self.axes = (1, 2) if self.param.norm_param.across_spatial else (1,)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, x = self.device.xp, bottom[0].value.read().reshape(self.view)
        self.inverse: Any = 1 / xp.sqrt((x * x).sum(self.axes, keepdims=True) + xp.float32(self.param.norm_param.eps))
        y = top[0].value.write().reshape(x.shape)
        xp.multiply(x, self.inverse, out=y)
        y *= self.blobs[0].value.read()[:, None]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        x, dy, scale = bottom[0].value.read().reshape(self.view), top[0].gradient.read().reshape(self.view), self.blobs[0].value.read()
        if self.param_propagate_down[0]:
            by_channel = (dy * (x * self.inverse)).sum((0, 2))
            self.blobs[0].gradient.adding()[...] += by_channel.sum() if scale.size == 1 else by_channel
        if propagate_down[0]:
            d = dy * scale[:, None]
            along = (d * x).sum(self.axes, keepdims=True) * self.inverse * self.inverse
            bottom[0].gradient.write().reshape(x.shape)[...] = (d - x * along) * self.inverse
