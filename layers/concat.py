"""Concat: several blobs side by side along one axis."""
from __future__ import annotations

from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register
from ..engine.layout import PLAIN


@register("Concat")
class ConcatLayer(Layer):
    """Joins blobs along an axis.

        layer { name: "join" type: "Concat" bottom: "a" bottom: "b" top: "ab" concat_param { axis: 1 } }

    Bottoms:  one or more, equal but for the extent of `axis`.      Top:  the extents of `axis` added up.
    axis   default 1; concat_dim is its old name.
    """

    bottoms = at_least(1)
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.concat_param
        self.require(not (p.HasField("axis") and p.HasField("concat_dim")), "axis and its old name concat_dim are both given", "concat_param.concat_dim")
        self.along = self.axis(p.concat_dim if p.HasField("concat_dim") else p.axis, len(bottom[0].shape), "concat_param")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        a, first = self.along, bottom[0].shape
        for i, blob in enumerate(bottom):
            self.require(len(blob.shape) == len(first) and blob.shape[:a] + blob.shape[a + 1:] == first[:a] + first[a + 1:],
                         f"bottoms may differ along axis {a} only: bottom 0 has the shape {first}, bottom {i} has {blob.shape}", f"bottom[{i}]")
        top[0].reshape(*first[:a], sum(b.shape[a] for b in bottom), *first[a + 1:])
        if len(bottom) == 1:
            top[0].share_value(bottom[0])
            top[0].share_gradient(bottom[0])

    def parts(self, bottom: list[Blob], top: Any, bottoms: list[Any]) -> list[tuple[Any, Any]]:
        """(bottom's array, the part of the top's that it fills), both (outer, n), in whatever layout they are."""
        outer = prod(bottom[0].shape[:self.along])
        flat = top.reshape(outer, -1)
        pairs, start = [], 0
        for x in bottoms:
            x = x.reshape(outer, -1)
            pairs.append((x, flat[:, start:start + x.shape[1]]))
            start += x.shape[1]
        return pairs

    def common_layout(self, bottom: list[Blob], top: list[Blob]) -> Any:
        """The bottoms' blocked layout, if all have the same and no block is cut; else plain."""
        layouts = [b.value.layout for b in bottom]
        if self.along != 1 or any(x is PLAIN or x.padded or x.grid[1] == 1 or x.lanes != layouts[0].lanes for x in layouts):
            return PLAIN
        return layouts[0]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if len(bottom) == 1:
            return
        self.kind = self.common_layout(bottom, top)
        xs = [b.value.read(self.kind and self.kind.like(b.shape)) for b in bottom]
        for x, part in self.parts(bottom, top[0].value.write(self.kind and self.kind.like(top[0].shape)), xs):
            part[...] = x

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if len(bottom) == 1:
            return
        dy = top[0].gradient.read(self.kind and self.kind.like(top[0].shape))
        dxs = [b.gradient.write(self.kind and self.kind.like(b.shape)) for b in bottom]
        for down, (dx, part) in zip(propagate_down, self.parts(bottom, dy, dxs)):
            if down:
                dx[...] = part
