"""BN: batch normalisation with scale and shift in one layer, as PSPNet's and SegNet's forks have it."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import register
from ..engine.layout import grid_of
from ..proto import brew_pb2 as pb
from .batch_norm import NormalizingLayer


@register("BN", "SyncBN")
class BNLayer(NormalizingLayer):
    """y = slope (x - mean) / sqrt(variance + eps) + bias for each channel. Two forks use this name, and are told apart by
    their parameters, or by the number of blobs that a file brings.

        layer { name: "conv1/bn" type: "BN" bottom: "conv1" top: "conv1"
                bn_param { slope_filler { type: "constant" value: 1 } bias_filler { type: "constant" value: 0 } frozen: true } }

    Bottom, top:  (N, C, ...)

    PSPNet (Zhao et al. 2017), blobs (1, C, 1, 1): slope, bias, mean, variance; mean and variance are not learned.
    momentum   what the statistics keep of themselves at each batch, default 0.9.      eps   default 1e-5.
    frozen     use the stored statistics, and learn nothing, in TRAIN too.

    SegNet (Badrinarayanan et al. 2017), where scale_filler, shift_filler or bn_mode is given, blobs (1, C, 1, 1): scale, shift.
    bn_mode    LEARN (default): always the batch's statistics; INFERENCE: scale x + shift, the statistics being merged into both.
    """

    learned = (0, 1)

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.bn_param
        self.set_channels(bottom)
        segnet = p.HasField("scale_filler") or p.HasField("shift_filler") or p.HasField("bn_mode")
        pspnet = p.HasField("slope_filler") or p.HasField("bias_filler") or p.HasField("momentum") or p.HasField("frozen")
        self.require(not (segnet and pspnet), "bn_param mixes the parameters of PSPNet's BN with those of SegNet's", "bn_param")
        self.segnet = segnet or len(self.param.blobs) == 2
        shape, one = (1, self.channels, 1, 1), pb.FillerParameter(value=1)
        slope, bias = ("scale_filler", "shift_filler") if self.segnet else ("slope_filler", "bias_filler")
        self.add_blob(shape, getattr(p, slope) if p.HasField(slope) else one)
        self.add_blob(shape, getattr(p, bias) if p.HasField(bias) else None)
        self.merged = self.segnet and p.bn_mode == p.INFERENCE
        if self.segnet:
            self.eps = p.eps if p.HasField("eps") else 1e-9
            return
        self.eps, self.from_batch = p.eps, self.phase == pb.TRAIN and not p.frozen
        self.add_blob(shape)
        self.add_blob(shape, one)
        self.statistics = (2, 3)
        while len(self.param.param) < 4:
            self.param.param.add()
        for spec in self.param.param[0 if p.frozen else 2:]:
            spec.lr_mult = spec.decay_mult = 0

    @property
    def per_channel(self) -> bool:                                  # type: ignore[override]
        return self.merged or not self.from_batch

    def affine(self) -> tuple[Any, Any]:
        if not self.merged:
            return super().affine()
        scale, shift = self.blobs[0].value.read(), self.blobs[1].value.read()
        return scale.reshape(-1), shift.reshape(-1)

    def stored(self) -> tuple[Any, Any]:
        return self.blobs[2].value.read().reshape(-1), self.blobs[3].value.read().reshape(-1)

    def absorb(self, mean: Any, variance: Any, values: int) -> None:
        if self.segnet:
            return
        keep = self.device.xp.float32(self.param.bn_param.momentum)
        for blob, new in zip(self.blobs[2:], (mean, variance)):
            blob.value.update()[...] = keep * blob.value.read() + (1 - keep) * new.reshape(blob.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if not self.merged:
            super().forward(bottom, top)
            return
        self.layout = bottom[0].value.layout
        self.grid = grid_of(self.layout, bottom[0].shape)
        x = bottom[0].value.read(self.layout)
        self.remember(x, self.layout, bottom[0].shape)
        self.k.scale_forward(x, self.blobs[0].value.read(), self.blobs[1].value.read(), top[0].value.write(self.layout), self.grid)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not self.merged:
            super().backward(top, propagate_down, bottom)
            return
        dy = top[0].gradient.read(self.layout)
        grads = [b.gradient.adding() if w else None for b, w in zip(self.blobs, self.param_propagate_down)]
        if any(g is not None for g in grads):
            self.k.scale_gradients(self.before.read(self.layout), dy, *grads, self.grid)
        if propagate_down[0]:
            self.k.scale_forward(dy, self.blobs[0].value.read(), None, bottom[0].gradient.write(self.layout), self.grid)
