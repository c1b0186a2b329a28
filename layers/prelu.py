"""PReLU: a rectifier whose slope below zero is learned."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.layout import PLAIN, grid_of
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb


@register("PReLU")
class PReLULayer(Layer):
    """x where it is positive, else slope x, with a learned slope for each channel (He et al. 2015).

        layer { name: "prelu1" type: "PReLU" bottom: "conv1" top: "conv1" }

    Bottom, top:  (N, C, ...)
    Blob:    the slopes (C), or one number with channel_shared.

    filler           default: constant 0.25.      channel_shared   default false.
    """

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.prelu_param
        self.require(len(bottom[0].shape) >= 2, f"needs a channel axis; the bottom's shape is {bottom[0].shape}", "bottom")
        self.shared, self.channels = p.channel_shared, bottom[0].shape[1]
        self.add_blob(() if self.shared else (self.channels,), p.filler if p.HasField("filler") else pb.FillerParameter(value=0.25))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(shape[1] == self.channels, f"the slopes are for {self.channels} channels; the shape is now {shape}", "bottom")
        top[0].reshape(*shape)

    def see(self, memory: Memory, blob: Blob) -> tuple[Any, Any]:
        """(layout, grid) to work in; a shared slope belongs to one channel that is everything."""
        if self.shared:
            return PLAIN, (1, 1, blob.count, 1, 1)
        return memory.layout, grid_of(memory.layout, blob.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout, grid = self.see(bottom[0].value, bottom[0])
        x = bottom[0].value.read(layout)
        if bottom[0] is top[0]:
            self.remember(x, layout, bottom[0].shape)
        self.k.prelu_forward(x, self.blobs[0].value.read(), top[0].value.write(layout), grid)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        source = self.before if bottom[0] is top[0] else bottom[0].value
        layout, grid = self.see(source, bottom[0])
        x, dy = source.read(layout), top[0].gradient.read(layout)
        if self.param_propagate_down[0]:
            self.k.prelu_slopes(x, dy, self.blobs[0].gradient.adding(), grid)
        if propagate_down[0]:
            self.k.prelu_backward(x, self.blobs[0].value.read(), dy, bottom[0].gradient.write(layout), grid)
