"""Slice: one blob cut along an axis."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, channels_view, register


@register("Slice")
class SliceLayer(Layer):
    """Cuts a blob along an axis, into equal parts or at given points.

        layer { name: "cut" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 slice_point: 2 } }

    Bottom:  any shape.      Tops:  one or more; their extents of `axis` add up to the bottom's.
    axis          default 1; slice_dim is its old name.
    slice_point   where to cut, one less than there are tops; none: equal parts.
    """

    tops = at_least(1)
    in_place = False
    backward_uses = ()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.slice_param, bottom[0].shape
        self.require(not (p.HasField("axis") and p.HasField("slice_dim")), "axis and its old name slice_dim are both given", "slice_param.slice_dim")
        axis = self.along = self.axis(p.slice_dim if p.HasField("slice_dim") else p.axis, len(shape), "slice_param")
        size, points = shape[axis], list(p.slice_point)
        if points:
            self.require(len(points) == len(top) - 1, f"{len(top)} tops need {len(top) - 1} slice_points, found {len(points)}", "slice_param.slice_point")
        else:
            self.require(size % len(top) == 0, f"{len(top)} tops cannot share axis {axis} of {size} equally: give slice_points", "top")
            points = [size // len(top) * i for i in range(1, len(top))]
        edges = [0, *points, size]
        fits = not p.slice_point or all(a < b for a, b in zip(edges, edges[1:]))
        self.require(fits, f"slice_points must rise, between 0 and {size}; found {points}", "slice_param.slice_point")
        outer, _, inner = channels_view(shape, axis, axis + 1)
        self.view = (outer, size * inner)
        self.pieces = [slice(a * inner, b * inner) for a, b in zip(edges, edges[1:])]
        for blob, a, b in zip(top, edges, edges[1:]):
            blob.reshape(*shape[:axis], b - a, *shape[axis + 1:])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = bottom[0].value.read().reshape(self.view)
        for blob, piece in zip(top, self.pieces):
            blob.value.write().reshape(x[:, piece].shape)[...] = x[:, piece]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].gradient.write().reshape(self.view)
            for blob, piece in zip(top, self.pieces):
                dx[:, piece] = blob.gradient.read().reshape(dx[:, piece].shape)
