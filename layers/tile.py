"""Tile: a blob repeated along an axis."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, channels_view, register


@register("Tile")
class TileLayer(Layer):
    """The bottom several times, one after the other along an axis.

        layer { name: "tile" type: "Tile" bottom: "x" top: "y" tile_param { axis: 1 tiles: 3 } }

    Bottom:  any shape.      Top:  the same, `axis` times as long.
    axis   default 1.      tiles   how often; required.
    """

    in_place = False
    backward_uses = ()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.tile_param, bottom[0].shape
        self.require(p.tiles > 0, f"tiles must be given, and be more than 0; found {p.tiles}", "tile_param.tiles")
        axis = self.axis(p.axis, len(shape), "tile_param.axis")
        outer, dim, inner = channels_view(shape, axis, axis + 1)
        self.view = (outer, p.tiles, dim * inner)
        top[0].reshape(*shape[:axis], shape[axis] * p.tiles, *shape[axis + 1:])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].value.write().reshape(self.view)[...] = bottom[0].value.read().reshape(self.view[0], 1, self.view[2])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].gradient.write().reshape(self.view[0], self.view[2])
            dx[...] = top[0].gradient.read().reshape(self.view).sum(1)
