"""The engines that a convolution can run on: oneDNN in the machine's layouts, or im2col and a matrix product."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ..engine.blob import Blob
from ..engine.layout import PLAIN, laid_out
from ..kernels import onednn
from ..proto import brew_pb2 as pb
from .winograd import LANES, Winograd

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


def axis_values(*values: tuple[int, ...]) -> list[int]:
    """The kernels' ConvShape: how many spatial axes, then in, out, kernel, stride, pad and dilation of each."""
    return [len(values[0]), *(v for axis in zip(*values) for v in axis)]


def kernel_args(g: Geometry) -> tuple[int, int, int, int, list[int]]:
    """The last arguments of the kernels conv_forward, conv_backward_data and conv_backward_weights."""
    return g.bottom[0], g.bottom[1], g.top[1], g.groups, axis_values(g.bottom[2:], g.top[2:], g.kernel, g.stride, g.pad, g.dilation)


def choose(layer: Any, g: Geometry, whole_blobs: bool) -> Any:
    """The engine that the layer's `engine` field, the device and the shapes allow."""
    engines = pb.ConvolutionParameter
    asked = layer.param.convolution_param.engine
    on_gpu = layer.device.name == "gpu"
    layer.require(not on_gpu or asked != engines.ONEDNN, "engine: ONEDNN is for the CPU", "convolution_param.engine")
    able = not on_gpu and onednn is not None and whole_blobs and 1 <= len(g.kernel) <= 3
    if asked == engines.ONEDNN:
        layer.require(able, "engine: ONEDNN is for 1 to 3 spatial axes after axis 1, where brew was built with oneDNN", "convolution_param.engine")
    if not g.bottom[0]:
        return Idle(layer, g)
    if able and (asked == engines.ONEDNN or asked != engines.CAFFE and layer.device.engine == "onednn"):
        return OneDnn(layer, g, winograd=asked != engines.ONEDNN)
    return Portable(layer, g)


class Engine:
    """What the engines have in common: weights and bias as they are, or with the scale and shift of layers behind folded in."""

    def __init__(self, layer: Any, g: Geometry):
        self.layer, self.geometry, self.weights = layer, g, layer.blobs[0].value.store
        self.folded: tuple[Any, Any] = (None, None)                # weights and bias
        self.folded_from: list[Any] = []

    def fold(self, following: Sequence[Any]) -> tuple[Any, Any]:
        """(weights, bias) of this convolution and of the `per_channel` layers behind it, made anew when one has been written:
        with y = conv(x, w) + b and then s y + t, they are s w and s b + t."""
        stores = [blob.value.store for layer in (self.layer, *following) for blob in layer.blobs]
        sources = [*stores, *[store.version for store in stores]]
        if sources != self.folded_from:
            w, *bias = self.layer.blobs
            weights, shift = w.value.plain_copy(), bias[0].value.plain_copy() if bias else 0
            for layer in following:
                scale, add = layer.affine()
                weights *= scale.reshape(-1, *[1] * (weights.ndim - 1))
                shift = shift * scale + add
            self.folded, self.folded_from = (self._packed(weights), shift), sources
        return self.folded

    def _packed(self, weights: Any) -> Any:
        return weights

    def can_add(self) -> bool:
        """Whether a sum with another blob costs nothing on the way."""
        return False

    @property
    def kernel(self) -> str:
        """What runs forward."""
        return ""


class Idle(Engine):
    """For a batch without images: its blobs are empty, and the parameters' gradients stay as they are. No kernel is
    called: they return without writing, and old values of a gradient's memory would count as those of this batch."""

    def forward(self, x: Blob, y: Blob, following: Sequence[Any], relu: float | None, *addend: Blob) -> None:
        y.value.write()

    def backward_data(self, y: Blob, x: Blob) -> None:
        x.gradient.write()

    def backward_weights(self, x: Blob, y: Blob) -> None: ...


class Portable(Engine):
    """im2col and a matrix product for each image, on plain arrays; also the GPU's."""

    def __init__(self, layer: Any, g: Geometry):
        super().__init__(layer, g)
        self.args = kernel_args(g)

    def forward(self, x: Blob, y: Blob, following: Sequence[Any], relu: float | None) -> None:
        """y from x, then the `per_channel` layers `following`, then a ReLU of this slope."""
        w, *bias = self.layer.blobs
        weights, shift = self.fold(following) if following else (w.value.read(), bias[0].value.read() if bias else None)
        out = y.value.write()
        self.layer.k.conv_forward(x.value.read(), weights, shift, out, *self.args)
        if relu is not None:
            self.layer.k.relu_forward(out, out, relu)

    def backward_data(self, y: Blob, x: Blob) -> None:
        self.layer.k.conv_backward_data(y.gradient.read(), self.layer.blobs[0].value.read(), x.gradient.write(), *self.args)

    def backward_weights(self, x: Blob, y: Blob) -> None:
        w, *bias = self.layer.blobs
        dw, db, beta = accumulators(w, bias, PLAIN)
        self.layer.k.conv_backward_weights(x.value.read(), y.gradient.read(), dw, db, beta, *self.args)


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """The layout of weights that a oneDNN primitive asked for. As with Layout, there is one object for each."""

    format: Any

    @staticmethod
    def of(format: Any) -> WeightLayout:
        with _making:
            same = _weight_layouts.setdefault(int(format.size), [])
            for layout in same:
                if layout.format == format:
                    return layout
            same.append(WeightLayout(format))
            return same[-1]

    @property
    def size(self) -> int:
        return int(self.format.size)

    def pack(self, plain: Any, out: Any) -> None:
        self.format.pack(plain, out)

    def unpack(self, packed: Any, plain: Any) -> None:
        self.format.unpack(packed, plain)


_weight_layouts: dict[int, list[WeightLayout]] = {}         # by size
_making = Lock()                                            # nets of several threads make them


class Variant:
    """A convolution by oneDNN in one pair of layouts, with its primitives."""

    def __init__(self, g: Geometry, bias: bool, lanes: tuple[int, int], format: Any):
        self.args, self.bias, self.lanes = (g.bottom, g.top, g.kernel, g.stride, g.pad, g.dilation, g.groups), bias, lanes
        self.bottom_layout, self.top_layout = (PLAIN if n == PLAIN_LANES else laid_out(shape, n) for n, shape in zip(lanes, (g.bottom, g.top)))
        self.primitive = onednn.Convolution(*self.args, bias, *lanes, False, None, format)
        self.format = self.primitive.format
        self.weight_layout = PLAIN if self.format.is_plain else WeightLayout.of(self.format)
        self.others: dict[Any, Any] = {}

    def doing(self, bias: bool, add: bool, relu: float | None) -> Any:
        """The primitive that adds a bias, then another array, and runs a ReLU of this slope after it."""
        key = bias, add, relu
        if key == (self.bias, False, None):
            return self.primitive
        if key not in self.others:
            self.others[key] = onednn.Convolution(*self.args, bias, *self.lanes, add, relu, self.format)
        return self.others[key]


class OneDnn(Engine):
    """oneDNN primitives, made once for a geometry. Activations and weights stay in the layouts they run best in.

    `main` runs forward and the weights' gradient. `data` makes the bottom's gradient: another variant where the library
    has only its reference for main's layouts (images of few channels: a hundred times slower, measured). Where brew's own
    `winograd` does all that faster, main only says in which layouts.
    """

    def __init__(self, layer: Any, g: Geometry, winograd: bool):
        super().__init__(layer, g)
        held = layer.blobs[0].value.layout               # a net that shares the weights has chosen already
        self.main = self._first(lambda v: (v.primitive.kernels[0], v.primitive.weights_kernel), held.format if isinstance(held, WeightLayout) else None)
        self.data: Variant | None = None
        layer.blobs[0].value.update(self.main.weight_layout)
        self.winograd: Winograd | None = None
        if winograd and self.main.lanes == (LANES, LANES) and self.main.format.block == LANES and Winograd.suits(g):
            self.winograd = Winograd(g, layer.context.pool)

    def _first(self, kernels: Callable[[Variant], tuple[str, ...]], format: Any = None) -> Variant:
        """The best variant for which the library has `kernels` of its own, rather than its slow reference."""
        *variants, last = self._lanes()
        for lanes in variants:
            try:
                variant = Variant(self.geometry, len(self.layer.blobs) > 1, lanes, format)
                if not any(kernel.startswith("ref") for kernel in kernels(variant)):
                    return variant
            except RuntimeError:
                continue                                 # it has none at all
        return Variant(self.geometry, len(self.layer.blobs) > 1, last, format if last == variants[0] else None)

    def _lanes(self) -> list[tuple[int, int]]:
        """(lanes in, lanes out), best first. Blocks that are mostly padding cost more than they give."""
        g, block = self.geometry, int(onednn.max_lanes())
        channels, outputs = g.bottom[1], g.top[1]
        last, plain = (CHANNELS_LAST, CHANNELS_LAST), (PLAIN_LANES, PLAIN_LANES)
        if g.groups not in (1, channels) and (channels // g.groups % block or outputs // g.groups % block):
            return [last, plain]
        few = channels <= 4
        padded = [-(-c // block) * block / c for c in (channels, outputs)]
        waste = padded[1] if few else max(padded)
        blocked = [(PLAIN_LANES, block), (block, block)] if few else [(block, block)]
        return [*blocked, last, plain] if waste <= 1.25 else [last, *blocked, plain]

    def _packed(self, weights: Any) -> Any:
        layout = self.main.weight_layout
        if layout is PLAIN:
            return weights
        packed = self.layer.device.empty(layout.size)
        layout.pack(weights, packed)
        return packed

    def can_add(self) -> bool:
        if self.winograd:
            return True
        try:                                             # with a kernel as fast as the convolution's own
            return bool(self.main.doing(True, True, 0.0).kernels[0] == self.main.primitive.kernels[0])
        except RuntimeError:
            return False

    def forward(self, x: Blob, y: Blob, following: Sequence[Any], relu: float | None, addend: Blob | None = None) -> None:
        """y from x, then the `per_channel` layers `following`, then the sum with `addend`, then a ReLU of this slope."""
        w, *bias = self.layer.blobs
        v = self.main
        weights, shift = self.fold(following) if following else (w.value.read(v.weight_layout), bias[0].value.read() if bias else None)
        other = addend.value.read(v.top_layout) if addend is not None else None
        source, out = x.value.read(v.bottom_layout), y.value.write(v.top_layout)
        if self.winograd:
            self.winograd.forward(source, weights, self.weights.version, not self.layer.runs_backward, shift, other, relu, out)
        else:
            v.doing(shift is not None, addend is not None, relu).forward(source, weights, shift, out, other)

    def backward_data(self, y: Blob, x: Blob) -> None:
        if self.data is None:
            own = not self.winograd and self.main.primitive.data_kernel.startswith("ref")
            self.data = self._first(lambda v: (v.primitive.data_kernel,)) if own else self.main
        v = self.data
        dy, weights, dx = y.gradient.read(v.top_layout), self.layer.blobs[0].value.read(v.weight_layout), x.gradient.write(v.bottom_layout)
        (self.winograd or v.primitive).backward_data(dy, weights, dx)

    def backward_weights(self, x: Blob, y: Blob) -> None:
        v = self.main
        w, *bias = self.layer.blobs
        dw, db, beta = accumulators(w, bias, v.weight_layout)
        (self.winograd or v.primitive).backward_weights(x.value.read(v.bottom_layout), y.gradient.read(v.top_layout), dw, db, beta)

    @property
    def kernel(self) -> str:
        return "winograd" if self.winograd else str(self.main.primitive.kernels[0])


def accumulators(w: Blob, bias: list[Blob], layout: Any) -> tuple[Any, Any, float]:
    """(weights' gradient, bias' gradient or None, beta): beta 0 if both are to be overwritten, 1 if both are to be added to."""
    dw, beta = w.gradient.accumulate(layout)
    if not bias:
        return dw, None, beta
    db, beta_bias = bias[0].gradient.accumulate()
    if beta_bias != beta:                                # one of the two is shared, and has a gradient already
        (dw if beta == 0 else db)[...] = 0
        beta = 1.0
    return dw, db, beta
