"""Scale and Bias: multiply by, and add, something with fewer axes."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, between, channels_view, register
from ..engine.layout import PLAIN, grid_of
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb


class BroadcastLayer(Layer):
    """What Scale and Bias have in common: an operand whose axes are some of the bottom's, from bottom 1 or a blob."""

    bottoms = between(1, 2)
    field = ""
    default_fill = 0.0

    def operand_setup(self, bottom: list[Blob]) -> None:
        p = getattr(self.param, self.field)
        axes = len(bottom[0].shape)
        self.first = self.axis(p.axis, axes, f"{self.field}.axis") if p.num_axes or axes else 0
        if len(bottom) == 1:
            self.require(p.num_axes >= -1, f"num_axes is -1 or more, found {p.num_axes}", f"{self.field}.num_axes")
            last = axes if p.num_axes == -1 else self.first + p.num_axes
            self.require(last <= axes, f"num_axes {p.num_axes} from axis {self.first} on goes beyond the bottom's {axes} axes", f"{self.field}.num_axes")
            filler = p.filler if p.HasField("filler") else pb.FillerParameter(value=self.default_fill)
            self.add_blob(bottom[0].shape[self.first:last], filler)

    def operand(self, bottom: list[Blob]) -> Blob:
        return bottom[1] if len(bottom) > 1 else self.blobs[0]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, part = bottom[0].shape, self.operand(bottom).shape
        last = self.first + len(part)
        self.require(shape[self.first:last] == part, f"the operand's shape {part} is not that of the bottom {shape} from axis {self.first} on", "bottom")
        top[0].reshape(*shape)
        outer, dim, inner = channels_view(shape, self.first, last)
        self.plain_grid = (outer, dim, inner, 1, dim)
        self.by_channel = self.first == 1 and last == 2

    def see(self, memory: Memory, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """(layout, grid) to work in: the bottom's own layout if the operand is one value per channel."""
        layout = memory.layout if self.by_channel else PLAIN
        return layout, (grid_of(layout, shape) if layout is not PLAIN else self.plain_grid)


@register("Scale")
class ScaleLayer(BroadcastLayer):
    """y = x * scale (+ bias), the scale broadcast over the axes it does not have.

        layer { name: "scale1" type: "Scale" bottom: "bn1" top: "bn1" scale_param { bias_term: true } }

    Bottoms:  x, any shape; and the scale, if it is not learned.
    Top:      as x.
    Blobs:    scale x.shape[axis : axis + num_axes] (one bottom), bias of the scale's shape (with bias_term).

    axis       default 1.       num_axes   default 1; -1: to the end; 0: a single number.
    bias_term  default false.   filler, bias_filler   default 1 and 0.
    """

    field, default_fill = "scale_param", 1.0

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.operand_setup(bottom)
        p = self.param.scale_param
        if p.bias_term:
            self.add_blob(self.operand(bottom).shape, p.bias_filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        self.per_channel = self.by_channel and len(bottom) == 1

    def affine(self) -> tuple[Any, Any]:
        scale = self.blobs[0].value.read()
        return scale, self.bias.value.read() if self.bias is not None else self.device.xp.zeros_like(scale)

    @property
    def bias(self) -> Blob | None:
        return self.blobs[-1] if self.param.scale_param.bias_term else None

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout, grid = self.see(bottom[0].value, bottom[0].shape)
        x = bottom[0].value.read(layout)
        if bottom[0] is top[0]:
            self.remember(x, layout, bottom[0].shape)                # the gradient of the scale needs it
        self.k.scale_forward(x, self.operand(bottom).value.read(), self.bias.value.read() if self.bias is not None else None, top[0].value.write(layout), grid)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return bottom[1:] if bottom[0] is top[0] else bottom        # in place, it remembers what it needs

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        source = self.before if bottom[0] is top[0] else bottom[0].value
        layout, grid = self.see(source, bottom[0].shape)
        dy, scale = top[0].gradient.read(layout), self.operand(bottom)
        learned = len(bottom) == 1
        wanted = self.param_propagate_down[0] if learned else propagate_down[1]
        if not learned and wanted:
            scale.gradient.clear()
        dbias = self.bias.gradient.adding() if self.bias is not None and self.param_propagate_down[-1] else None
        if wanted or dbias is not None:
            self.k.scale_gradients(source.read(layout), dy, scale.gradient.adding() if wanted else None, dbias, grid)
        if propagate_down[0]:
            self.k.scale_forward(dy, scale.value.read(), None, bottom[0].gradient.write(layout), grid)


@register("Bias")
class BiasLayer(BroadcastLayer):
    """y = x + bias, the bias broadcast over the axes it does not have.

        layer { name: "bias1" type: "Bias" bottom: "x" top: "y" bias_param { axis: 1 } }

    Bottoms:  x, any shape; and the bias, if it is not learned.
    Top:      as x.
    Blobs:    bias x.shape[axis : axis + num_axes] (one bottom).

    axis   default 1.      num_axes   default 1; -1: to the end; 0: a single number.      filler   default 0.
    """

    field = "bias_param"
    backward_uses = ()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.operand_setup(bottom)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout, grid = self.see(bottom[0].value, bottom[0].shape)
        x = bottom[0].value.read(layout)
        self.k.scale_forward(x, None, self.operand(bottom).value.read(), top[0].value.write(layout), grid)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        layout, grid = self.see(top[0].gradient, bottom[0].shape)
        dy = top[0].gradient.read(layout)
        if len(bottom) > 1 and propagate_down[1]:
            bottom[1].gradient.clear()
        if propagate_down[1] if len(bottom) > 1 else self.param_propagate_down[0]:
            self.k.scale_gradients(None, dy, None, self.operand(bottom).gradient.adding(), grid)
        if propagate_down[0] and bottom[0] is not top[0]:
            self.k.linear(dy, 1.0, bottom[0].gradient.write(layout), 0.0)
