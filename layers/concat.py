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
    backward_uses = ()

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

    def common_layout(self, bottom: list[Blob], top: list[Blob]) -> Any:
        """A blocked layout that some bottom has and no bottom's channels would be padded in; else plain."""
        if self.along == 1:
            for layout in (b.value.layout for b in bottom):
                if layout is not PLAIN and layout.grid[1] * layout.lanes == layout.grid[4] and layout.lanes < layout.grid[4] and all(b.shape[1] % layout.lanes == 0 for b in bottom):
                    return layout
        return PLAIN

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if len(bottom) == 1:
            return
        self.kind = self.common_layout(bottom, top)
        y = top[0].value.write(self.kind and self.kind.like(top[0].shape))
        start = 0
        for blob in bottom:
            x = blob.value.read(self.kind and self.kind.like(blob.shape))
            start = self._copy(x, 0, y, start, blob)

    def _copy(self, source: Any, at: int, target: Any, to: int, blob: Blob) -> int:
        """Copy a bottom's part between its own array and the top's, either way; returns where the next one begins."""
        outer = prod(blob.shape[:self.along])
        n = blob.count // max(outer, 1)
        self.k.copy_rows(source, target, outer, n, at, to)
        return max(at, to) + n

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if len(bottom) == 1:
            return
        dy = top[0].gradient.read(self.kind and self.kind.like(top[0].shape))
        start = 0
        for blob, down in zip(bottom, propagate_down):
            if down:
                self._copy(dy, start, blob.gradient.write(self.kind and self.kind.like(blob.shape)), 0, blob)
            start += blob.count // max(prod(blob.shape[:self.along]), 1)
