"""BatchNorm: each channel with mean 0 and variance 1 over the batch."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.layout import grid_of
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb

log = logging.getLogger("brew")


class NormalizingLayer(Layer):
    """(x - mean) / sqrt(variance + eps) of each channel, perhaps times a scale and plus a shift. A layer of its own says
    whether the statistics are the batch's (self.from_batch), where they are stored, and which blobs are scale and shift.
    """

    eps = 1e-5
    from_batch = True
    learned: tuple[int, int] | None = None   # the numbers of the blobs scale and shift
    layout: Any                              # of the last forward, and its channel grid
    grid: Any

    def stored(self) -> tuple[Any, Any]:
        """(mean, variance) (C) to be used where the batch's are not."""
        raise NotImplementedError

    def absorb(self, mean: Any, variance: Any, values: int) -> None:
        """Take the batch's biased statistics, over so many values of each channel, into the stored ones."""

    @property
    def per_channel(self) -> bool:                                  # type: ignore[override]
        return not self.from_batch

    def affine(self) -> tuple[Any, Any]:
        mean, variance = self.stored()
        factor = 1 / self.device.xp.sqrt(variance + self.device.xp.float32(self.eps))
        own = self.own()
        if own is None:
            return factor, -mean * factor
        scale, shift = (blob.value.read().reshape(-1) for blob in own)
        return factor * scale, shift - mean * factor * scale

    def set_channels(self, bottom: list[Blob]) -> None:
        self.require(len(bottom[0].shape) >= 1, "normalises channels; the bottom is a scalar", "bottom")
        self.channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        self.require(self.channels, f"needs at least one channel; the bottom's shape is {bottom[0].shape}", "bottom")
        self.mean, self.variance, self.inverse = (Memory((self.channels,)) for _ in range(3))
        self.normal = Memory()

    def fix(self, blobs: int, of: int) -> None:
        """The first `blobs` of the layer's `of` blobs are statistics: their rates and decays are 0."""
        self.statistics = range(blobs)
        del self.param.param[of:]
        while len(self.param.param) < of:
            self.param.param.add()
        for spec in self.param.param[:blobs]:
            spec.lr_mult = spec.decay_mult = 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require((shape[1] if len(shape) > 1 else 1) == self.channels, f"the statistics are for {self.channels} channels; the shape is now {shape}", "bottom")
        top[0].reshape(*shape)
        self.layout, self.grid, self.values = None, None, max(bottom[0].count // self.channels, 1)
        if self.normal.shape != shape:
            self.normal = Memory(shape)                             # the result before scale and shift

    # A layer's own scale and shift, or those of the Scale that it does the work of, are one matter: the pass is the same.

    def own(self) -> tuple[Blob, Blob] | None:
        return None if self.learned is None else (self.blobs[self.learned[0]], self.blobs[self.learned[1]])

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        types = [layer.type for layer in following]
        if self.learned is not None or types not in (["Scale"], ["Scale", "ReLU"]):
            return False
        scale = following[0]
        return len(scale.blobs) == 2 and scale.blobs[0].shape == (self.channels,) and getattr(scale, "by_channel", False) and (len(types) == 1 or getattr(following[1], "slope", 1) == 0)

    fuses_backward = True

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._run(bottom, top, self.own(), False, self.runs_backward)

    def forward_fused(self, bottom: list[Blob], top: list[Blob], following: Sequence[Any]) -> None:
        """With the Scale, and perhaps the ReLU, that follow in place. All three go on from the same copy of the result before."""
        scale, shift = following[0].blobs
        self._run(bottom, top, (scale, shift), len(following) > 1, any(layer.runs_backward for layer in (self, *following)))
        following[0].before = self.normal

    def _run(self, bottom: list[Blob], top: list[Blob], affine: tuple[Blob, Blob] | None, relu: bool, keep: bool) -> None:
        """`keep` the result before scale and shift for backward: what follows in place will write over the top."""
        layout = bottom[0].value.layout
        if self.grid is None or layout is not self.layout:
            self.layout, self.grid = layout, grid_of(layout, bottom[0].shape)
        x = bottom[0].value.read(self.layout)
        if not x.size:
            top[0].value.write(self.layout)                         # no items, no moments: the stored ones stay
            return
        mean, inverse = self.mean.write(), self.inverse.write()
        if self.from_batch:
            variance = self.variance.write()
            self.k.channel_moments(x, mean, variance, self.eps, inverse, self.grid)
            self.absorb(mean, variance, self.values)
        else:
            stored, variance = self.stored()
            mean[...] = stored
            self.k.inverse_deviation(variance, self.eps, inverse)
        y, normal = top[0].value.write(self.layout), self.normal.write(self.layout) if keep else None
        if affine is not None:
            scale, shift = (blob.value.read().reshape(-1) for blob in affine)
            self.k.bn_forward(x, mean, inverse, scale, shift, normal, y, relu, self.grid)
        else:
            self.k.normalize_forward(x, mean, inverse, y, normal, self.grid)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return ()                                                   # it keeps what it needs

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        affine = self.own()
        wanted = [self.param_propagate_down[k] for k in self.learned] if self.learned is not None else []
        self._differentiate(top, propagate_down, bottom, affine, wanted, False)

    def backward_fused(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob], following: Sequence[Any]) -> None:
        scale, shift = following[0].blobs
        self._differentiate(top, propagate_down, bottom, (scale, shift), following[0].param_propagate_down, len(following) > 1)

    def _differentiate(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob], affine: tuple[Blob, Blob] | None, wanted: list[bool], relu: bool) -> None:
        inverse, dy = self.inverse.read(), top[0].gradient.read(self.layout)
        grads = [blob.gradient.adding() if want else None for blob, want in zip(affine or (), wanted)]
        dx = bottom[0].gradient.write(self.layout) if propagate_down[0] else None
        y = top[0].value.read(self.layout) if relu else None
        if self.from_batch and affine is not None:
            into = dx if dx is not None else self.device.empty(dy.size).reshape(dy.shape)      # the kernel works in it
            self.k.bn_backward(y, self.normal.read(self.layout), dy, affine[0].value.read().reshape(-1), inverse, *grads, into, self.grid)
            return
        if dx is not None and self.from_batch:
            self.k.normalize_backward(self.normal.read(self.layout), dy, inverse, dx, self.grid)
            return
        if relu:
            passed = dx if dx is not None else self.device.empty(dy.size).reshape(dy.shape)
            self.k.relu_backward(y, dy, passed, 0.0)
            dy = passed
        if any(g is not None for g in grads):
            self.k.scale_gradients(self.normal.read(self.layout), dy, *grads, self.grid)
        if dx is not None:
            self.k.scale_forward(dy, inverse if affine is None else inverse * affine[0].value.read().reshape(-1), None, dx, self.grid)


@register("BatchNorm")
class BatchNormLayer(NormalizingLayer):
    """y = (x - mean) / sqrt(variance + eps) for each channel (Ioffe and Szegedy 2015); no scale and shift: a Scale layer
    with bias_term follows for those, or scale_bias brings them.

        layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }

    Bottom, top:  (N, C, ...)
    Blobs:   sums of means (C) and of variances (C), and how much was summed (1), none of them learned; with scale_bias, a
             scale (C) and a bias (C), which are. Files of three blobs load into five, too.

    use_global_stats            true: use blob 0 / blob 2 and blob 1 / blob 2; false: the batch's own, which are then
                                added to the blobs. Unset: true in TEST.
    moving_average_fraction     default 0.999: what the sums keep of themselves at each batch.
    eps                         default 1e-5, added to the variance.
    scale_bias                  y times a learned scale plus a learned bias, as in NVIDIA's fork; a filler for one sets it, too. The
                                lr_mult of the statistics is then 0, whatever `param` says; otherwise another one is an error.
    """

    optional_blobs = 2                   # scale and bias

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.batch_norm_param
        self.fraction, self.eps = p.moving_average_fraction, p.eps
        self.from_batch = not (p.use_global_stats if p.HasField("use_global_stats") else self.phase == pb.TEST)
        self.set_channels(bottom)
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.add_blob(shape)
        learns = p.scale_bias or p.HasField("scale_filler") or p.HasField("bias_filler") or len(self.param.blobs) == 5
        if any(spec.HasField("lr_mult") and spec.lr_mult for spec in self.param.param[:3]):
            self.require(learns, "its blobs are statistics: their lr_mult must be 0", "param")
            log.warning('layer "%s" (type "BatchNorm"): its first three blobs are statistics; their lr_mult is 0, whatever param says, as in '
                        "NVIDIA's fork", self.name)
        self.require(learns or len(self.param.param) <= 3 or all(s.lr_mult == 0 for s in self.param.param), "its blobs are statistics: their lr_mult must be 0", "param")
        if learns:
            self.add_blob((self.channels,), p.scale_filler if p.HasField("scale_filler") else pb.FillerParameter(value=1))
            self.add_blob((self.channels,), p.bias_filler)
            self.learned = (3, 4)
        self.fix(3, 5 if learns else 3)

    def stored(self) -> tuple[Any, Any]:
        xp, factor = self.device.xp, self.blobs[2].value.read()
        share = xp.where(factor == 0, 0, 1 / xp.where(factor == 0, 1, factor)).astype(xp.float32)
        return self.blobs[0].value.read() * share, self.blobs[1].value.read() * share

    def absorb(self, mean: Any, variance: Any, values: int) -> None:
        unbiased = values / (values - 1) if values > 1 else 1.0
        self.k.absorb_moments(mean, variance, unbiased, self.fraction, *[blob.value.update() for blob in self.blobs[:3]])
