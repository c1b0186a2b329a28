"""Permute, Transpose, Reverse, ShuffleChannel, Reorg, Padding: the same values in other places."""
from __future__ import annotations

from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register


class MovingLayer(Layer):
    """Puts each value of the bottom into one place of the top, or none. A layer says how with strided views."""

    in_place = False
    backward_uses = ()

    def moved(self, x: Any) -> Any:
        """A view of the bottom's array `x` in the top's order."""

    def restored(self, y: Any) -> Any:
        """A view of the top's array `y` in the bottom's order: moved() the other way."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        view = self.moved(bottom[0].value.read())
        top[0].value.write().reshape(view.shape)[...] = view

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            view = self.restored(top[0].gradient.read())
            bottom[0].gradient.write().reshape(view.shape)[...] = view


class AxesLayer(MovingLayer):
    """The top has the bottom's axes in the order self.order."""

    def set_order(self, order: list[int], axes: int, field: str) -> None:
        self.require(sorted(order) == list(range(axes)), f"each of the {axes} axes is named once, found {order}", field)
        self.order = order
        self.back = [order.index(i) for i in range(axes)]

    def moved(self, x: Any) -> Any:
        return x.transpose(self.order)

    def restored(self, y: Any) -> Any:
        return y.transpose(self.back)


@register("Permute")
class PermuteLayer(AxesLayer):
    """The bottom's axes in another order.

        layer { name: "p" type: "Permute" bottom: "x" top: "y" permute_param { order: 0 order: 2 order: 3 order: 1 } }

    Bottom:  (d0, d1, ...)      Top:  axis i is the bottom's axis order[i]; axes that are not named follow in their order.
    From Liu et al., SSD (2016).
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, order = bottom[0].shape, [int(i) for i in self.param.permute_param.order]
        self.require(all(i < len(shape) for i in order), f"the bottom has {len(shape)} axes; order names axis {max(order, default=0)}", "permute_param.order")
        self.set_order(order + [i for i in range(len(shape)) if i not in order], len(shape), "permute_param.order")
        top[0].reshape(*(shape[i] for i in self.order))


@register("Transpose")
class TransposeLayer(AxesLayer):
    """The bottom's axes in another order, all of them named.

        layer { name: "t" type: "Transpose" bottom: "x" top: "y" transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 } }

    Bottom:  (d0, d1, ...)      Top:  axis i is the bottom's axis dim[i].
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.set_order([self.axis(d, len(shape), "transpose_param.dim") for d in self.param.transpose_param.dim], len(shape), "transpose_param.dim")
        top[0].reshape(*(shape[i] for i in self.order))


@register("Reverse")
class ReverseLayer(MovingLayer):
    """One axis from its end to its beginning, as the second direction of a recurrent net needs time.

        layer { name: "back" type: "Reverse" bottom: "x" top: "y" reverse_param { axis: 0 } }

    Bottom, top:  any shape.      axis   default 0.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        axes = len(bottom[0].shape)
        self.turn = (slice(None),) * self.axis(self.param.reverse_param.axis, axes, "reverse_param.axis") + (slice(None, None, -1),)
        top[0].reshape(*bottom[0].shape)

    def moved(self, x: Any) -> Any:
        return x[self.turn]

    def restored(self, y: Any) -> Any:
        return y[self.turn]


@register("ShuffleChannel")
class ShuffleChannelLayer(MovingLayer):
    """Channels dealt out in turn, so that groups of a convolution see each other's (Zhang et al., ShuffleNet, 2018).

        layer { name: "s" type: "ShuffleChannel" bottom: "x" top: "y" shuffle_channel_param { group: 2 } }

    Bottom, top:  (N, C, ...); channel j group + i of the top is channel i C / group + j of the bottom.
    group   must divide C.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, self.group = bottom[0].shape, self.param.shuffle_channel_param.group
        self.require(len(shape) >= 2, f"shuffles channels, axis 1; the bottom's shape is {shape}", "bottom")
        self.require(self.group > 0 and shape[1] % self.group == 0, f"group must divide the {shape[1]} channels, found {self.group}", "shuffle_channel_param.group")
        top[0].reshape(*shape)

    def moved(self, x: Any) -> Any:
        return x.reshape(x.shape[0], self.group, x.shape[1] // self.group, prod(x.shape[2:])).swapaxes(1, 2)

    def restored(self, y: Any) -> Any:
        return y.reshape(y.shape[0], y.shape[1] // self.group, self.group, prod(y.shape[2:])).swapaxes(1, 2)


@register("Reorg")
class ReorgLayer(MovingLayer):
    """Blocks of pixels become channels, as in ncnn and in space-to-depth elsewhere.

        layer { name: "r" type: "Reorg" bottom: "x" top: "y" reorg_param { stride: 2 } }

    Bottom:  (N, C, H, W)      Top:  (N, C s^2, H / s, W / s): channel (c s + i) s + j is pixel (i, j) of each block of channel c.
    stride    s, default 2.
    reverse   the other way: (N, C, H, W) to (N, C / s^2, H s, W s).
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.reorg_param, bottom[0].shape
        self.require(len(shape) == 4, f"takes images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        n, c, h, w = shape
        s = self.stride = p.stride
        fits = s > 0 and (c % (s * s) == 0 if p.reverse else h % s == w % s == 0)
        self.require(fits, f"stride {s} does not divide {f'{c} channels' if p.reverse else f'{h} x {w} pixels'}{' by its square' if p.reverse else ''}", "reorg_param")
        top[0].reshape(*((n, c // (s * s), h * s, w * s) if p.reverse else (n, c * s * s, h // s, w // s)))

    def moved(self, x: Any) -> Any:
        return self._to_pixels(x) if self.param.reorg_param.reverse else self._to_channels(x)

    def restored(self, y: Any) -> Any:
        return self._to_channels(y) if self.param.reorg_param.reverse else self._to_pixels(y)

    def _to_channels(self, x: Any) -> Any:
        n, c, h, w = x.shape
        s = self.stride
        return x.reshape(n, c, h // s, s, w // s, s).transpose(0, 1, 3, 5, 2, 4)

    def _to_pixels(self, x: Any) -> Any:
        n, c, h, w = x.shape
        s = self.stride
        return x.reshape(n, c // (s * s), s, s, h, w).transpose(0, 1, 4, 2, 5, 3)


@register("Padding")
class PaddingLayer(Layer):
    """Rows and columns of zeros at an image's edges, or cut off there (DeepLab).

        layer { name: "p" type: "Padding" bottom: "x" top: "y" padding_param { pad_beg: -1 pad_end: 2 } }

    Bottom:  (N, C, H, W)      Top:  (N, C, H + pad_beg + pad_end, W + pad_beg + pad_end).
    pad_beg, pad_end   pixels at top and left, and at bottom and right; less than 0: cut off.
    """

    in_place = False
    backward_uses = ()

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.padding_param, bottom[0].shape
        self.require(len(shape) == 4, f"takes images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        out = tuple(d + p.pad_beg + p.pad_end for d in shape[2:])
        self.require(min(out) > 0, f"nothing is left of {shape[2]} x {shape[3]} pixels with pad_beg {p.pad_beg} and pad_end {p.pad_end}", "padding_param")
        top[0].reshape(*shape[:2], *out)
        begin = p.pad_beg
        self.inner = (..., *(slice(max(-begin, 0), min(d, o - begin)) for d, o in zip(shape[2:], out)))     # what stays, in the bottom
        self.outer = (..., *(slice(max(begin, 0), min(o, d + begin)) for d, o in zip(shape[2:], out)))      # and in the top

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        y = top[0].value.write()
        y[...] = 0
        y[self.outer] = bottom[0].value.read()[self.inner]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].gradient.write()
            dx[...] = 0
            dx[self.inner] = top[0].gradient.read()[self.outer]
