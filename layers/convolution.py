"""Convolution: filters that slide over any number of spatial axes."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, at_least, register
from . import conv_engines
from .windows import check_windows


class SlidingLayer(Layer):
    """What slides a kernel over the spatial axes: reads the geometry of a ConvolutionParameter."""

    in_place = False

    def read_geometry(self, shape: tuple[int, ...]) -> None:
        """channel_axis, spatial_axes, and kernel, stride, pad and dilation for each spatial axis of a bottom of this shape."""
        p, axes = self.param.convolution_param, len(shape)
        self.channel_axis = self.axis(p.axis, axes, "convolution_param.axis")
        self.pixels(shape)
        self.spatial_axes = axes - self.channel_axis - 1
        self.kernel = self._spatial("kernel_size", None)
        self.stride = self._spatial("stride", 1)
        self.pad = self._spatial("pad", 0)
        self.dilation = self._spatial("dilation", 1)
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride), ("dilation", self.dilation)):
            self.require(all(v >= 1 for v in values), f"{name} must be at least 1, found {values}", f"convolution_param.{name}")

    def _spatial(self, name: str, default: int | None) -> tuple[int, ...]:
        """One value per spatial axis, from the repeated field or its _h and _w forms."""
        p, n = self.param.convolution_param, self.spatial_axes
        prefix = "kernel" if name == "kernel_size" else name
        values = list(getattr(p, name))
        if prefix != "dilation" and (p.HasField(f"{prefix}_h") or p.HasField(f"{prefix}_w")):
            self.require(not values, f"{name} excludes {prefix}_h and {prefix}_w", f"convolution_param.{name}")
            self.require(n == 2, f"{prefix}_h and {prefix}_w are for two spatial axes; there are {n}", f"convolution_param.{prefix}_h")
            absent = default or 0
            return tuple(getattr(p, f"{prefix}_{a}") if p.HasField(f"{prefix}_{a}") else absent for a in "hw")
        self.require(values or default is not None or n == 0, f"{name} must be given", "convolution_param")
        self.require(len(values) in (0, 1, n), f"{name} is given once, or once for each of the {n} spatial axes; found {len(values)}", f"convolution_param.{name}")
        return tuple(values if len(values) == n else (values or [default or 0]) * n)

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial extents of a bottom of this shape. Raises NetError if items have no values; no items are fine."""
        fits = all(shape[self.channel_axis:])
        self.require(fits, f"needs channels and pixels; the bottom's shape is {shape}", "bottom")
        return shape[self.channel_axis + 1:]

    def slide(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """How many places the kernel has along each axis."""
        check_windows(self, "convolution_param", spatial, self.kernel, self.stride, self.pad, self.dilation)
        out = tuple((s + 2 * p - (d * (k - 1) + 1)) // st + 1 for s, p, d, k, st in zip(spatial, self.pad, self.dilation, self.kernel, self.stride))
        self.require(all(o > 0 for o in out), f"the kernel {self.kernel} does not fit into the bottom's {spatial} with pad {self.pad}", "convolution_param")
        return out


@register("Convolution")
class ConvolutionLayer(SlidingLayer):
    """Slides filters over the spatial axes and sums over channels (cross-correlation: the filter is not flipped).

        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
                convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }

    Bottoms:  (N, C, spatial...) each, all of one shape.
    Tops:     (N, num_output, spatial'...), one for each bottom, with
              spatial' = floor((spatial + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1.
    Blobs:    weights (num_output, C / group, kernel...), and bias (num_output) unless bias_term is false.

    kernel_size, stride, pad, dilation   pixels; once, or once per spatial axis; or the _h and _w forms for two axes.
    group     channels and outputs are cut into so many parts that do not see each other; must divide both.
    engine    ONEDNN (its direct kernels), or CAFFE (im2col and a matrix product). DEFAULT takes the fastest that can serve:
              brew's own Winograd kernels for 3 x 3 with stride 1, else the two in this order.
    axis      the channel axis (default 1): axes before it are batch, those after it spatial.
    """

    bottoms, tops, as_many_tops = at_least(1), at_least(1), True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.convolution_param
        self.read_geometry(bottom[0].shape)
        self.channels, self.outputs, self.groups = bottom[0].shape[self.channel_axis], p.num_output, p.group
        self.require(self.outputs > 0, "num_output must be given, and be more than 0", "convolution_param.num_output")
        for what, n in (("num_output", self.outputs), ("the number of channels", self.channels)):
            self.require(self.groups > 0 and n % self.groups == 0, f"group {self.groups} must divide {what}, which is {n}", "convolution_param.group")
        self.add_blob(self.weight_shape(), p.weight_filler)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)
        self.engine: Any = None

    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.channels // self.groups, *self.kernel)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.check_shapes(bottom)
        batch, spatial = shape[:self.channel_axis], self.pixels(shape)
        out = self.slide(spatial)
        for blob in top:
            blob.reshape(*batch, self.outputs, *out)
        geometry = conv_engines.Geometry((prod(batch), self.channels, *spatial), (prod(batch), self.outputs, *out), self.kernel,
                                         self.stride, self.pad, self.dilation, self.groups)
        if self.dry:
            return
        if self.engine is None or self.engine.geometry != geometry or self.engine.weights is not self.blobs[0].value.store:
            self.engine = conv_engines.choose(self, geometry, whole_blobs=self.channel_axis == 1)

    def check_shapes(self, bottom: list[Blob]) -> None:
        """All bottoms must have one shape, and the channels and axes that the weights are for."""
        shape = bottom[0].shape
        for i, blob in enumerate(bottom):
            self.require(blob.shape == shape, f"all bottoms must have one shape: bottom 0 has {shape}, bottom {i} has {blob.shape}", f"bottom[{i}]")
        self.require(len(shape) == self.channel_axis + 1 + self.spatial_axes and shape[self.channel_axis] == self.channels,
                     f"the weights are for {self.channels} channels and {self.spatial_axes} spatial axes; the shape is now {shape}", "bottom")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for x, y in zip(bottom, top):
            self.engine.forward(x, y, [], None)

    def can_fuse(self, following: Sequence[Layer]) -> bool:
        """A ReLU; before it, where nobody asks for gradients, all that scales and shifts each channel (BatchNorm in TEST, Scale),
        and a sum with another blob."""
        affine, join, _ = self._parts(following)
        if affine is None:
            return False
        if not affine and not join:
            return True
        return not any(layer.runs_backward for layer in (self, *following)) and (not join or join[0].adds_up and self.engine is not None and self.engine.can_add())

    @staticmethod
    def _parts(following: Sequence[Any]) -> tuple[list[Any] | None, list[Any], list[Any]]:
        """What follows as (per channel, at most one that joins another blob, at most one ReLU); None first if it is otherwise."""
        rest = list(following)
        relu = [rest.pop()] if rest[-1].type == "ReLU" else []
        join = [rest.pop()] if rest and rest[-1].type == "Eltwise" else []
        return (rest if all(layer.per_channel for layer in rest) else None), join, relu

    def forward_fused(self, bottom: list[Blob], top: list[Blob], following: Sequence[Any]) -> None:
        """With what follows: one pass over the images. Backward runs all of them as they are."""
        affine, join, relu = self._parts(following)
        self.engine.forward(bottom[0], top[0], affine, relu[0].slope if relu else None, *([bottom[1]] if join else []))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for y, x, down in zip(top, bottom, propagate_down):
            if any(self.param_propagate_down):
                self.engine.backward_weights(x, y)
            if down:
                self.engine.backward_data(y, x)

    def backward_reads(self, bottom: list[Blob], top: list[Blob]) -> Sequence[Blob]:
        return bottom

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * sum(t.count for t in top) * self.channels // self.groups * prod(self.kernel)


@register("DepthwiseConvolution", "ConvolutionDepthwise")
class DepthwiseConvolutionLayer(ConvolutionLayer):
    """A Convolution whose group is the number of channels: every channel has filters of its own (Howard et al., MobileNets, 2017).

        layer { name: "conv2_1/dw" type: "DepthwiseConvolution" bottom: "conv1" top: "conv2_1/dw"
                convolution_param { num_output: 32 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "msra" } } }

    Bottoms:  (N, C, spatial...) each, all of one shape.      Tops:  (N, num_output, spatial'...), one for each bottom.
    Blobs:    weights (num_output, 1, kernel...), and bias (num_output) unless bias_term is false.

    num_output   a multiple of C.      The other parameters are Convolution's; group need not be given.
    """

    def read_geometry(self, shape: tuple[int, ...]) -> None:
        super().read_geometry(shape)
        p, channels = self.param.convolution_param, shape[self.channel_axis]
        self.require(p.num_output % channels == 0, f"num_output must be a multiple of the {channels} channels, found {p.num_output}", "convolution_param.num_output")
        self.require(p.group in (1, channels), f"group is the number of channels, {channels}, or left out; found {p.group}", "convolution_param.group")
        p.group = channels
