"""BatchNorm: each channel with mean 0 and variance 1 over the batch."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.layout import grid_of
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb


@register("BatchNorm")
class BatchNormLayer(Layer):
    """y = (x - mean) / sqrt(variance + eps) for each channel (Ioffe and Szegedy 2015); no scale and shift: a Scale layer
    with bias_term follows for those.

        layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }

    Bottom, top:  (N, C, ...)
    Blobs:   sums of means (C) and of variances (C), and how much was summed (1); none of them is learned.

    use_global_stats            true: use blob 0 / blob 2 and blob 1 / blob 2; false: the batch's own, which are then
                                added to the blobs. Unset: true in TEST.
    moving_average_fraction     default 0.999: what the sums keep of themselves at each batch.
    eps                         default 1e-5, added to the variance.
    """

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.batch_norm_param
        self.fraction, self.eps = p.moving_average_fraction, p.eps
        self.global_stats = p.use_global_stats if p.HasField("use_global_stats") else self.phase == pb.TEST
        self.require(len(bottom[0].shape) >= 1, "normalises channels; the bottom is a scalar", "bottom")
        self.channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.add_blob(shape)
        for spec in self.param.param:
            self.require(not spec.HasField("lr_mult") or spec.lr_mult == 0, "its blobs are statistics: their lr_mult must be 0", "param")
        del self.param.param[3:]
        while len(self.param.param) < 3:
            self.param.param.add()
        for spec in self.param.param:
            spec.lr_mult = spec.decay_mult = 0
        self.mean, self.inverse = Memory((self.channels,)), Memory((self.channels,))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require((shape[1] if len(shape) > 1 else 1) == self.channels, f"the statistics are for {self.channels} channels; the shape is now {shape}", "bottom")
        top[0].reshape(*shape)
        self.in_place_now = bottom[0] is top[0]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, shape = self.device.xp, bottom[0].shape
        self.layout = bottom[0].value.layout
        self.grid = grid_of(self.layout, shape)
        x = bottom[0].value.read(self.layout)
        mean, inverse = self.mean.write(), self.inverse.write()
        if self.global_stats:
            factor = self.blobs[2].value.read()
            share = xp.where(factor == 0, 0, 1 / xp.where(factor == 0, 1, factor)).astype(xp.float32)
            mean[...] = self.blobs[0].value.read() * share
            variance = self.blobs[1].value.read() * share
        else:
            variance = xp.empty_like(inverse)
            self.k.channel_moments(x, mean, variance, self.grid)
            m = max(bottom[0].count // self.channels, 1)
            unbiased = m / (m - 1) if m > 1 else 1.0
            for blob, new in zip(self.blobs, (mean, variance * xp.float32(unbiased), xp.float32(1))):
                blob.value.update()[...] = xp.float32(self.fraction) * blob.value.read() + new
        inverse[...] = 1 / xp.sqrt(variance + xp.float32(self.eps))
        y = top[0].value.write(self.layout)
        self.k.normalize_forward(x, mean, inverse, y, self.grid)
        if self.in_place_now and not self.global_stats:
            self.remember(y, self.layout, shape)                    # what follows in place will write over it

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, inverse = top[0].gradient.read(self.layout), self.inverse.read()
        dx = bottom[0].gradient.write(self.layout)
        if self.global_stats:
            self.k.scale_forward(dy, inverse, None, dx, self.grid)
            return
        y = (self.before if self.in_place_now else top[0].value).read(self.layout)
        self.k.normalize_backward(y, dy, inverse, dx, self.grid)
