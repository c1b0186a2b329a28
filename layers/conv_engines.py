"""The engines that a convolution can run on: oneDNN in the machine's layouts, or im2col and a matrix product."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layout import PLAIN, laid_out
from ..kernels import onednn
from ..proto import brew_pb2 as pb

CHANNELS_LAST, PLAIN_LANES = 0, 1


@dataclass(frozen=True)
class Geometry:
    """A convolution's shapes: (N, C, spatial...) in and out, and one kernel, stride, pad and dilation per spatial axis."""

    bottom: tuple[int, ...]
    top: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def choose(layer: Any, g: Geometry, whole_blobs: bool) -> Any:
    """The engine that the layer's `engine` field, the device and the shapes allow."""
    engines = pb.ConvolutionParameter
    asked = layer.param.convolution_param.engine
    if layer.device.name == "gpu":
        layer.require(asked != engines.ONEDNN, "engine: ONEDNN is for the CPU", "convolution_param.engine")
        return Portable(layer, g)
    able = onednn is not None and whole_blobs and 1 <= len(g.kernel) <= 3 and min(g.bottom) > 0
    if asked == engines.ONEDNN:
        layer.require(able, "engine: ONEDNN is for 1 to 3 spatial axes after axis 1, where brew was built with oneDNN", "convolution_param.engine")
    if able and (asked == engines.ONEDNN or asked != engines.CAFFE and layer.device.engine == "onednn"):
        return OneDnn(layer, g)
    return Portable(layer, g)


class Portable:
    """im2col and a matrix product for each image, on plain arrays; also the GPU's."""

    def __init__(self, layer: Any, g: Geometry):
        self.layer, self.geometry, self.weights = layer, g, layer.blobs[0].value.store
        axes = zip(g.bottom[2:], g.top[2:], g.kernel, g.stride, g.pad, g.dilation)
        self.args = (g.bottom[0], g.bottom[1], g.top[1], g.groups, [len(g.kernel), *(v for axis in axes for v in axis)])

    def forward(self, x: Blob, y: Blob, relu: float | None) -> None:
        w, *bias = self.layer.blobs
        self.layer.k.conv_forward(x.value.read(), w.value.read(), bias[0].value.read() if bias else None, y.value.write(), *self.args)

    def backward_data(self, y: Blob, x: Blob) -> None:
        self.layer.k.conv_backward_data(y.gradient.read(), self.layer.blobs[0].value.read(), x.gradient.write(), *self.args)

    def backward_weights(self, x: Blob, y: Blob) -> None:
        w, *bias = self.layer.blobs
        dw, beta = w.gradient.accumulate()
        db = None
        if bias:
            db, beta_bias = bias[0].gradient.accumulate()
            if beta_bias != beta:                        # one of the two is shared, and has a gradient already
                (dw if beta == 0 else db)[...] = 0
                beta = 1.0
        self.layer.k.conv_backward_weights(x.value.read(), y.gradient.read(), dw, db, beta, *self.args)


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """The layout of weights that a oneDNN primitive asked for."""

    format: Any

    @property
    def size(self) -> int:
        return int(self.format.size)

    def pack(self, plain: Any, out: Any) -> None:
        self.format.pack(plain, out)

    def unpack(self, packed: Any, plain: Any) -> None:
        self.format.unpack(packed, plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightLayout) and bool(self.format == other.format)

    def __hash__(self) -> int:
        return self.size


class OneDnn:
    """oneDNN primitives, made once for a geometry. Activations and weights stay in the layouts they run best in."""

    fuses = True

    def __init__(self, layer: Any, g: Geometry):
        self.layer, self.geometry, self.weights = layer, g, layer.blobs[0].value.store
        self.made: dict[float | None, Any] = {}
        held = layer.blobs[0].value.layout               # a net that shares the weights has chosen already
        self.format = held.format if isinstance(held, WeightLayout) else None
        self.lanes = next(pair for pair in self._candidates() if self._able(pair))
        self.bottom_layout, self.top_layout = (PLAIN if lanes == PLAIN_LANES else laid_out(shape, lanes)
                                               for lanes, shape in zip(self.lanes, (g.bottom, g.top)))
        self.format = self._primitive(None).format
        self.weight_layout = PLAIN if self.format.is_plain else WeightLayout(self.format)
        layer.blobs[0].value.update(self.weight_layout)

    def _candidates(self) -> list[tuple[int, int]]:
        """(lanes in, lanes out), best first. Blocks that are mostly padding cost more than they give."""
        g, block = self.geometry, int(onednn.max_lanes())
        channels, outputs = g.bottom[1], g.top[1]
        if g.groups > 1 and (channels // g.groups % block or outputs // g.groups % block) and g.groups != channels:
            return [(CHANNELS_LAST, CHANNELS_LAST), (PLAIN_LANES, PLAIN_LANES)]
        padded = [-(-c // block) * block / c for c in (channels, outputs)]
        few = channels <= 4
        blocked = (PLAIN_LANES if few else block, block)
        last = (CHANNELS_LAST, CHANNELS_LAST)
        waste = padded[1] if few else max(padded)
        return [blocked, last, (PLAIN_LANES, PLAIN_LANES)] if waste <= 1.25 else [last, blocked, (PLAIN_LANES, PLAIN_LANES)]

    def _able(self, lanes: tuple[int, int]) -> bool:
        """Whether the library has a kernel of its own for these layouts, rather than its slow reference."""
        self.lanes = lanes
        try:
            return lanes == (PLAIN_LANES, PLAIN_LANES) or not self._make(None).kernels[0].startswith(("ref", "gemm"))
        except RuntimeError:
            return False

    def _make(self, relu: float | None) -> Any:
        g = self.geometry
        return onednn.Convolution(g.bottom, g.top, g.kernel, g.stride, g.pad, g.dilation, g.groups, len(self.layer.blobs) > 1,
                                  *self.lanes, relu, self.format)

    def _primitive(self, relu: float | None) -> Any:
        if relu not in self.made:
            self.made[relu] = self._make(relu)
        return self.made[relu]

    def forward(self, x: Blob, y: Blob, relu: float | None) -> None:
        w, *bias = self.layer.blobs
        self._primitive(relu).forward(x.value.read(self.bottom_layout), w.value.read(self.weight_layout),
                                      bias[0].value.read() if bias else None, y.value.write(self.top_layout))

    def backward_data(self, y: Blob, x: Blob) -> None:
        self._primitive(None).backward_data(y.gradient.read(self.top_layout), self.layer.blobs[0].value.read(self.weight_layout),
                                            x.gradient.write(self.bottom_layout))

    def backward_weights(self, x: Blob, y: Blob) -> None:
        w, *bias = self.layer.blobs
        dw, beta = w.gradient.accumulate(self.weight_layout)
        db = None
        if bias:
            db, beta_bias = bias[0].gradient.accumulate()
            if beta_bias != beta:
                (dw if beta == 0 else db)[...] = 0
                beta = 1.0
        self._primitive(None).backward_weights(x.value.read(self.bottom_layout), y.gradient.read(self.top_layout), dw, db, beta != 0)
