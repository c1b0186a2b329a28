"""Interp and Upsample: larger and smaller images."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, between, register
from .whole_numbers import refuse, whole_numbers


@register("Interp")
class InterpLayer(Layer):
    """Bilinear resampling, the corners of the top being those of the bottom (Chen et al., DeepLab; Zhao et al., PSPNet, 2017).

        layer { name: "up" type: "Interp" bottom: "x" top: "y" interp_param { height: 60 width: 60 } }

    Bottoms:  (N, C, H, W); with use_blob_size a second one, whose size the top gets.      Top:  (N, C, H', W').

    height, width               pixels of the top.
    shrink_factor, zoom_factor  instead: H' = (H - 1) / shrink_factor + 1, and then H' = H + (H - 1) (zoom_factor - 1).
    pad_beg, pad_end            0 or less: pixels cut off at top and left, and at bottom and right, before.
    """

    bottoms, in_place = between(1, 2), False
    backward_uses = ()

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.interp_param, bottom[0].shape
        self.require(len(shape) == 4, f"resamples images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        self.require(p.pad_beg <= 0 and p.pad_end <= 0, "pad_beg and pad_end are 0 or less: they cut off", "interp_param")
        self.require(p.shrink_factor >= 1 and p.zoom_factor >= 1, "shrink_factor and zoom_factor are at least 1", "interp_param")
        sizes = [d + p.pad_beg + p.pad_end for d in shape[2:]]
        self.require(min(sizes) > 0, f"pad_beg {p.pad_beg} and pad_end {p.pad_end} leave nothing of {shape[2]} x {shape[3]} pixels", "interp_param")
        if len(bottom) == 2:
            self.require(len(bottom[1].shape) == 4, f"bottom 1 gives the size, and needs four axes; its shape is {bottom[1].shape}", "bottom[1]")
            out = list(bottom[1].shape[2:])
        elif p.height or p.width:
            out = [p.height, p.width]
            self.require(min(out) > 0, f"height and width go together, found {p.height} and {p.width}", "interp_param")
        else:
            self.require(not p.use_blob_size, "use_blob_size takes the size of a second bottom", "interp_param.use_blob_size")
            out = [(d - 1) // p.shrink_factor + 1 for d in sizes]
            out = [d + (d - 1) * (p.zoom_factor - 1) for d in out]
        top[0].reshape(*shape[:2], *out)
        self.shape = (*shape[2:], -p.pad_beg, -p.pad_beg, *sizes, *out)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.k.resample_forward(bottom[0].value.read(), top[0].value.write(), self.shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if len(bottom) == 2 and propagate_down[1]:
            bottom[1].gradient.clear()                     # only its size was read
        if propagate_down[0]:
            self.k.resample_backward(top[0].gradient.read(), bottom[0].gradient.write(), self.shape)


@register("Upsample")
class UpsampleLayer(Layer):
    """Each pixel several times; or, with a mask, in the place that it was the maximum of (Badrinarayanan et al., SegNet, 2017).

        layer { name: "up" type: "Upsample" bottom: "x" bottom: "mask" top: "y" upsample_param { scale: 2 } }

    Bottoms:  (N, C, H, W); optionally the mask, as Pooling's second top gives it: row * W' + column, of the bottom's shape.
    Top:      (N, C, H', W'), zero where no pixel went. Where two pixels go to one place, one of them is taken.

    scale, scale_h, scale_w   how many times larger, default 2.      upsample_h, upsample_w   pixels of the top, instead.
    pad_out_h, pad_out_w      with a mask: one row or column less.
    """

    bottoms, in_place = between(1, 2), False
    backward_uses = ()

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.upsample_param, bottom[0].shape
        self.require(len(shape) == 4, f"takes images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        self.scales = (p.scale_h or p.scale, p.scale_w or p.scale)
        if len(bottom) == 1:
            self.require(not (p.upsample_h or p.upsample_w), "upsample_h and upsample_w go with a mask", "upsample_param")
            self.require(min(self.scales) > 0, "scale must be more than 0", "upsample_param.scale")
            top[0].reshape(*shape[:2], *(d * s for d, s in zip(shape[2:], self.scales)))
            return
        self.require(bottom[1].shape == shape, f"the mask needs the bottom's shape {shape}, found {bottom[1].shape}", "bottom[1]")
        top[0].reshape(*shape[:2], p.upsample_h or shape[2] * self.scales[0] - p.pad_out_h, p.upsample_w or shape[3] * self.scales[1] - p.pad_out_w)

    @staticmethod
    def _planes(blob: Blob) -> tuple[int, int]:
        """(planes, pixels of a plane)."""
        n, c, h, w = blob.shape
        return n * c, h * w

    def places(self, bottom: list[Blob], top: list[Blob]) -> tuple[Any, Any]:
        """(planes, places within): where each pixel of the bottom goes, as indices of the top (N C, H' W')."""
        xp, size = self.device.xp, top[0].shape[2] * top[0].shape[3]
        mask = bottom[1].value.read()
        places = whole_numbers(xp, mask).reshape(self._planes(bottom[0]))
        refuse(self, (places < 0) | (places >= size), mask, f"the mask has the place {{value}}; the top's planes have {size} pixels", "bottom[1]")
        return xp.arange(len(places))[:, None], places

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y = bottom[0].value.read(), top[0].value.write()
        if len(bottom) == 1:
            n, c, h, w = x.shape
            y.reshape(n, c, h, self.scales[0], w, self.scales[1])[...] = x[:, :, :, None, :, None]
            return
        self.where = self.places(bottom, top)
        y[...] = 0
        y.reshape(self._planes(top[0]))[self.where] = x.reshape(self._planes(bottom[0]))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(len(bottom) == 1 or not propagate_down[1], "a mask has no gradient; put propagate_down: false here", "propagate_down")
        if not propagate_down[0]:
            return
        dy, dx = top[0].gradient.read(), bottom[0].gradient.write()
        if len(bottom) == 1:
            n, c, h, w = dx.shape
            dx[...] = dy.reshape(n, c, h, self.scales[0], w, self.scales[1]).sum((3, 5))
        else:
            dx.reshape(self._planes(bottom[0]))[...] = dy.reshape(self._planes(top[0]))[self.where]
