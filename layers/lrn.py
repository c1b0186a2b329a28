"""LRN: local response normalisation, across channels or within one."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.errors import ShapeError
from ..engine.layer import Layer, register
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb
from .windows import MOST


@register("LRN")
class LRNLayer(Layer):
    """Divides each value by a power of its neighbourhood's mean square (Krizhevsky et al. 2012, section 3.3).

        layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
                lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }

    Bottom, top:  (N, C, H, W)
    ACROSS_CHANNELS   y = x / (k + alpha / n * sum of x^2 over n channels around)^beta
    WITHIN_CHANNEL    y = x / (1 + alpha * mean of x^2 over n x n pixels around)^beta; zeros beyond the edge count, k does not

    local_size   n: channels, or pixels of a side; odd.      alpha, beta, k   default 1, 0.75, 1.
    """

    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.lrn_param
        self.require(p.local_size % 2 == 1, f"local_size must be odd, found {p.local_size}", "lrn_param.local_size")
        self.size, self.alpha, self.beta = p.local_size, p.alpha, p.beta
        self.within = p.norm_region == pb.LRNParameter.WITHIN_CHANNEL

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(len(shape) == 4, f"normalises images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        top[0].reshape(*shape)
        n, c, h, w = shape
        self.require(max(c, h, w) + 2 * self.size + 1 <= MOST, f"local_size {self.size} is too large: twice that and the blob's extents must add up to less than 2^31", "lrn_param.local_size", ShapeError)
        self.scale, self.scratch = Memory(shape), Memory(shape)
        self.args: tuple[Any, ...] = (n, c, h * w, self.size, self.alpha, self.beta)
        pad = (self.size - 1) // 2
        self.window = (n * c, 1, (h, w, h, w, self.size, self.size, 1, 1, pad, pad))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y, s = bottom[0].value.read(), top[0].value.write(), self.scale.write()
        if not self.within:
            self.k.lrn_across_forward(x, s, y, *self.args, k=self.param.lrn_param.k)
            return
        squares = self.scratch.write()
        self.k.multiply(x, x, squares)
        self.k.ave_pool_forward(squares, s, *self.window)
        self.k.lrn_within_forward(x, s, y, self.alpha, self.beta)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, y, dy = bottom[0].value.read(), top[0].value.read(), top[0].gradient.read()
        s, dx = self.scale.read(), bottom[0].gradient.write()
        if not self.within:
            self.k.lrn_across_backward(x, s, y, dy, dx, *self.args)
            return
        ratio = self.scratch.write()
        self.k.lrn_within_ratio(y, s, dy, ratio)
        sums = Memory(x.shape).write()
        self.k.ave_pool_backward(ratio, sums, *self.window)
        self.k.lrn_within_backward(x, s, dy, sums, dx, self.alpha, self.beta)
