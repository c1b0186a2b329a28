"""SPP: spatial pyramid pooling, a fixed number of values from images of any size."""
from __future__ import annotations

from math import ceil
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, item_rows, register
from ..proto import brew_pb2 as pb
from .pooling import PoolingLayer


@register("SPP")
class SPPLayer(Layer):
    """Pools the image in 1, 4, 16, ... bins and puts all results side by side (He et al., ECCV 2014).

        layer { name: "spp" type: "SPP" bottom: "conv5" top: "spp" spp_param { pyramid_height: 3 } }

    Bottom:  (N, C, H, W)
    Top:     (N, C * (1 + 4 + ... + 4^(pyramid_height - 1))); with a height of 1 the pooled image (N, C, 1, 1).
    pyramid_height   levels; level l has 2^l bins along each side.      pool   MAX (default) or AVE.
    """

    in_place = False
    counter = "forwards"                 # of random draws, which the levels share

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.forwards = 0
        self.height = self.param.spp_param.pyramid_height
        self.require(self.height > 0, "pyramid_height must be given, and be more than 0", "spp_param.pyramid_height")
        self.require(self.height <= 16, f"pyramid_height must be at most 16, found {self.height}: the last level has 4^{self.height - 1} bins", "spp_param.pyramid_height")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(len(bottom[0].shape) == 4, f"pools images (N, C, H, W); the bottom's shape is {bottom[0].shape}", "bottom")
        n, c, h, w = bottom[0].shape
        self.require(h and w, f"pools pixels; the bottom's shape is {bottom[0].shape}", "bottom")
        self.levels: list[tuple[PoolingLayer, Blob]] = []
        for level in range(self.height):
            param = pb.LayerParameter(name=f"{self.name}_level{level}", type="Pooling", position=self.param.position)
            p = param.pooling_param
            p.pool = self.param.spp_param.pool  # type: ignore[assignment]  # the two enums have the same values
            bins = 2**level
            p.kernel_h, p.kernel_w = ceil(h / bins), ceil(w / bins)
            p.stride_h, p.stride_w = p.kernel_h, p.kernel_w
            p.pad_h, p.pad_w = (p.kernel_h * bins - h + 1) // 2, (p.kernel_w * bins - w + 1) // 2
            layer, pooled = PoolingLayer(param, self.phase, self.seed), Blob()
            layer.setup(bottom, [pooled])
            layer.reshape(bottom, [pooled])
            self.levels.append((layer, pooled))
        if self.height == 1:
            top[0].reshape(*self.levels[0][1].shape)
        else:
            top[0].reshape(n, sum(item_rows(blob.shape)[1] for _, blob in self.levels))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        y = top[0].value.write().reshape(item_rows(top[0].shape))
        for (layer, pooled), piece in zip(self.levels, self.pieces()):
            layer.seed, layer.forwards = self.seed, self.forwards
            layer.forward(bottom, [pooled])
            y[:, piece] = pooled.value.read().reshape(item_rows(pooled.shape))
        self.forwards = layer.forwards

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy: Any = top[0].gradient.read().reshape(item_rows(top[0].shape))
        part = Blob(bottom[0].shape)
        dx = bottom[0].gradient.write()
        for i, ((layer, pooled), piece) in enumerate(zip(self.levels, self.pieces())):
            pooled.gradient.write()[...] = dy[:, piece].reshape(pooled.shape)
            layer.backward([pooled], [True], [part])
            self.k.linear(part.gradient.read(), 1.0, dx, 1.0 if i else 0.0)

    def pieces(self) -> list[slice]:
        """Which columns of the top belong to which level."""
        ends = [0]
        for _, blob in self.levels:
            ends.append(ends[-1] + item_rows(blob.shape)[1])
        return [slice(a, b) for a, b in zip(ends, ends[1:])]
