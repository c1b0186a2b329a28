"""ArgMax: which values are the largest."""
from __future__ import annotations

from math import prod

from ..engine.blob import Blob
from ..engine.layer import Layer, item_rows, register


@register("ArgMax")
class ArgMaxLayer(Layer):
    """The places of the top_k largest values, largest first; of equal values the later place comes first.

        layer { name: "best" type: "ArgMax" bottom: "prob" top: "best" argmax_param { top_k: 5 } }

    Bottom:  any shape.
    Top:     with `axis`, as the bottom with top_k along it: places, or the values with out_max_val;
             without, (N, 1, top_k), counted over all other axes as one; with out_max_val (N, 2, top_k): places, then values.
    It has no gradient.
    """

    in_place = False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.argmax_param, bottom[0].shape
        self.along = self.axis(p.axis, len(shape), "argmax_param.axis") if p.HasField("axis") else None
        if self.along is not None:
            size = shape[self.along]
            top[0].reshape(*shape[:self.along], p.top_k, *shape[self.along + 1:])
        else:
            items, size = self.items(bottom[0]), prod(shape[1:])
            top[0].reshape(items, 2 if p.out_max_val else 1, p.top_k, *(1,) * (len(shape) - 3))
        self.require(1 <= p.top_k <= size, f"top_k must lie between 1 and {size}, found {p.top_k}", "argmax_param.top_k")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.argmax_param
        x, y = bottom[0].value.read(), top[0].value.write()
        rows = xp.moveaxis(x, self.along, -1) if self.along is not None else x.reshape(item_rows(x.shape))
        last = rows.shape[-1] - 1
        places = last - xp.argsort(-rows[..., ::-1], axis=-1, kind="stable")[..., :p.top_k]
        values = xp.take_along_axis(rows, places, -1)
        if self.along is not None:
            y[...] = xp.moveaxis(values if p.out_max_val else places, -1, self.along)
        else:
            flat = y.reshape(x.shape[0], 2 if p.out_max_val else 1, p.top_k)
            flat[:, 0] = places
            if p.out_max_val:
                flat[:, 1] = values

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[0], "places have no gradient; put propagate_down: false above it", "type")
