"""Crop: one blob cut to the size of another."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register


@register("Crop")
class CropLayer(Layer):
    """The part of bottom 0 that has the size of bottom 1, from `axis` on.

        layer { name: "crop" type: "Crop" bottom: "big" bottom: "small" top: "y" crop_param { axis: 2 offset: 5 } }

    Bottoms:  the blob to crop, and one whose shape says how much stays; it gets no gradient.
    Top:      bottom 0's extents before `axis`, bottom 1's from there on.
    axis     default 2.      offset   where to begin: none (0), one for all cropped axes, or one for each.
    """

    bottoms = exactly(2)
    in_place = False
    backward_uses = ()

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape, size = self.param.crop_param, bottom[0].shape, bottom[1].shape
        axis = self.axis(p.axis, len(shape), "crop_param.axis")
        cropped = len(shape) - axis
        self.require(len(size) == len(shape), f"both bottoms need the same number of axes: the shapes are {shape} and {size}", "bottom")
        self.require(len(p.offset) in (0, 1, cropped), f"offset is given not at all, once, or for each of the {cropped} cropped axes; found {len(p.offset)}", "crop_param.offset")
        offsets = [0] * axis + (list(p.offset) if len(p.offset) == cropped else (list(p.offset) or [0]) * cropped)
        result = shape[:axis] + size[axis:]
        self.require(all(o + r <= s for o, r, s in zip(offsets, result, shape)), f"{result} from {tuple(offsets)} on goes beyond the bottom's {shape}", "crop_param")
        top[0].reshape(*result)
        self.window = tuple(slice(o, o + r) for o, r in zip(offsets, result))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].value.write()[...] = bottom[0].value.read()[self.window]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].gradient.write()
            dx[...] = 0
            dx[self.window] = top[0].gradient.read()
