"""Flatten and Reshape: the same values under another shape."""
from __future__ import annotations

from math import prod

from ..engine.blob import Blob
from ..engine.layer import Layer, register


class ViewLayer(Layer):
    """The top is the bottom under another shape: no copy forward or backward."""

    in_place = False
    backward_uses = ()

    def new_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...      # type: ignore[empty-body]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*self.new_shape(bottom[0].shape))
        top[0].share_value(bottom[0])
        top[0].share_gradient(bottom[0])


@register("Flatten")
class FlattenLayer(ViewLayer):
    """Merges the axes from `axis` to `end_axis` (both included) into one.

        layer { name: "flat" type: "Flatten" bottom: "x" top: "flat" }

    Bottom:  (N, C, H, W), say.      Top:  (N, C * H * W).
    axis   default 1.      end_axis   default -1, the last.
    """

    def new_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        p = self.param.flatten_param
        first, last = self.axis(p.axis, len(shape), "flatten_param.axis"), self.axis(p.end_axis, len(shape), "flatten_param.end_axis")
        self.require(first <= last, f"axis {p.axis} comes after end_axis {p.end_axis}", "flatten_param")
        return shape[:first] + (prod(shape[first:last + 1]),) + shape[last + 1:]


@register("Reshape")
class ReshapeLayer(ViewLayer):
    """Gives the bottom another shape of the same count.

        layer { name: "r" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 0 dim: -1 } } }

    shape            for each new axis its extent; 0 copies the bottom's at that place, -1 is what remains (once).
    axis, num_axes   which axes of the bottom are replaced: num_axes (default -1, all) from axis (default 0) on;
                     a negative axis counts from the end, -1 being after the last.
    """

    def new_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        p, axes = self.param.reshape_param, len(shape)
        first = p.axis if p.axis >= 0 else axes + p.axis + 1
        self.require(0 <= first <= axes, f"there is no axis {p.axis}: the bottom has {axes} axes", "reshape_param.axis")
        self.require(p.num_axes >= -1, f"num_axes is -1 or more, found {p.num_axes}", "reshape_param.num_axes")
        last = axes if p.num_axes == -1 else first + p.num_axes
        self.require(last <= axes, f"num_axes {p.num_axes} from axis {first} on goes beyond the bottom's {axes} axes", "reshape_param.num_axes")
        new = list(p.shape.dim)
        copied = {first + i for i, d in enumerate(new) if d == 0}
        self.require(new.count(-1) <= 1 and all(d >= -1 for d in new), f"dims are -1 (once), 0 or more; found {new}", "reshape_param.shape")
        for i, d in enumerate(new):
            if d == 0:
                self.require(first + i < axes, f"dim {i} is 0, which copies axis {first + i}; the bottom has {axes} axes", "reshape_param.shape")
                new[i] = shape[first + i]
        result = shape[:first] + tuple(new) + shape[last:]
        count = prod(shape)
        if -1 in result:
            # Axes that stay as they are do not count: the extent of the others is known without items, too.
            values = prod(d for i, d in enumerate(shape) if first <= i < last and i not in copied)
            rest = prod(d for d in p.shape.dim if d > 0) * prod(shape[i] for i in copied if i >= last)
            fits = rest > 0 and values % rest == 0
            self.require(fits, f"{count} values do not divide into {result}", "reshape_param.shape")
            result = tuple(values // rest if d == -1 else d for d in result)
        self.require(prod(result) == count, f"the bottom {shape} has {count} values, {result} would have {prod(result)}", "reshape_param.shape")
        return result
