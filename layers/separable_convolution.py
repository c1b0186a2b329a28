"""SeparableConvolution: a filter for each channel, then a mix of channels at each pixel."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.blob import Blob, BlobVec
from ..engine.layer import Layer, register
from ..proto import brew_pb2 as pb
from .convolution import ConvolutionLayer


@register("SeparableConvolution")
class SeparableConvolutionLayer(Layer):
    """A depthwise convolution and a pointwise one as one layer (Chollet, Xception, 2017).

        layer { name: "sep" type: "SeparableConvolution" bottom: "x" top: "sep"
                separable_convolution_param { num_output: 728 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "msra" } } }

    Bottom:  (N, C, H, W)      Top:  (N, num_output, H', W'), with H' and W' as for Convolution.
    Blobs:   depthwise weights (C * depth_multiplier, 1, kernel...), pointwise weights (num_output, C * depth_multiplier, 1, 1),
             and bias (num_output) unless bias_term is false.

    kernel_size, stride, pad, dilation   of the depthwise part, as for Convolution.
    depth_multiplier   filters for each channel, default 1.
    activation         between the parts: NONE (default; the paper found it better without) or RELU.
    """

    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.separable_convolution_param, bottom[0].shape
        self.require(len(shape) == 4, f"takes images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        self.require(p.depth_multiplier > 0, "depth_multiplier must be more than 0", "separable_convolution_param.depth_multiplier")
        self.require(p.num_output > 0, "num_output must be given, and be more than 0", "separable_convolution_param")
        self.between = Blob()
        self.private_blobs = [self.between]
        stored = list(self.param.blobs)
        first = pb.ConvolutionParameter(num_output=shape[1] * p.depth_multiplier, group=shape[1], bias_term=False, weight_filler=p.weight_filler,
                                        kernel_size=p.kernel_size, stride=p.stride, pad=p.pad, dilation=p.dilation)
        second = pb.ConvolutionParameter(num_output=p.num_output, bias_term=p.bias_term, kernel_size=[1], weight_filler=p.weight_filler, bias_filler=p.bias_filler)
        self.depthwise = self._part("depthwise", first, stored[:1], bottom[0], self.between)
        self.pointwise = self._part("pointwise", second, stored[1:], self.between, top[0])
        self.blobs = BlobVec([*self.depthwise.blobs, *self.pointwise.blobs])

    def _part(self, name: str, convolution: pb.ConvolutionParameter, blobs: list[pb.BlobProto], x: Blob, y: Blob) -> ConvolutionLayer:
        param = pb.LayerParameter(name=f"{self.name}/{name}", type="Convolution", convolution_param=convolution, blobs=blobs, position=self.param.position)
        layer = ConvolutionLayer(param, self.phase, self.seed)
        layer.setup([x], [y])
        layer.reshape([x], [y])
        return layer

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.depthwise.blobs, self.pointwise.blobs = BlobVec(self.blobs[:1]), BlobVec(self.blobs[1:])       # others, where the net shares them
        self.depthwise.reshape(bottom, [self.between])
        self.pointwise.reshape([self.between], top)

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        self.pointwise.runs_backward = self.runs_backward
        return self.pointwise.can_fuse(following)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._forward_depthwise(bottom)
        self.pointwise.forward([self.between], top)

    def forward_fused(self, bottom: list[Blob], top: list[Blob], following: Sequence[Any]) -> None:
        """What follows in place is the pointwise part's to take over."""
        self._forward_depthwise(bottom)
        self.pointwise.forward_fused([self.between, *bottom[1:]], top, following)

    def _forward_depthwise(self, bottom: list[Blob]) -> None:
        self.depthwise.forward(bottom, [self.between])
        if self.activates:
            memory = self.between.value
            y = memory.update(memory.layout)
            self.k.relu_forward(y, y, 0.0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        learn: Any = self.param_propagate_down
        self.depthwise.param_propagate_down, self.pointwise.param_propagate_down = learn[:1], learn[1:]
        below = propagate_down[0] or learn[0]
        self.pointwise.backward(top, [below], [self.between])
        if not below:
            return
        if self.activates:
            memory = self.between.gradient
            layout = memory.layout
            d = memory.update(layout)
            self.k.relu_backward(self.between.value.read(layout), d, d, 0.0)
        self.depthwise.backward([self.between], propagate_down, bottom)

    @property
    def activates(self) -> bool:
        return self.param.separable_convolution_param.activation == pb.SeparableConvolutionParameter.RELU

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return [*bottom, self.between]

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return self.depthwise.flops(bottom, [self.between]) + self.pointwise.flops([self.between], top)
