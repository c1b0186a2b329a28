"""What each layer becomes in ONNX (operator set 17): functions of the graph, the layer, the names of its inputs, and its blobs.

Each returns the name of its result, or a list of names for several tops.
"""
from __future__ import annotations

from collections.abc import Callable
from math import log, prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from .onnx_graph import Graph

Names = list[str]
Blobs = list[Blob]
FORMS: dict[str, Callable[[Graph, Any, Names, Blobs, Blobs], str | Names]] = {}
# and all losses: they are for training
LEFT_OUT = {"Accuracy", "DetectionEvaluate", "HDF5Output", "PrecisionAtK", "SegAccuracy", "Silence"}


def form(*types: str) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        FORMS.update(dict.fromkeys(types, function))
        return function
    return add


def channels(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A value for each channel, in a shape that broadcasts over a blob of `shape`."""
    return np.asarray(values, np.float32).reshape(-1, *[1] * (len(shape) - 2))


# --------------------------------------------------------------------------------------- convolutions and matrix products


@form("Convolution", "ConvolutionDepthwise", "Deconvolution", "DepthwiseConvolution")
def convolution(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> Names:
    if layer.channel_axis != 1:
        g.refuse("its channels are not axis 1")
    type = "ConvTranspose" if layer.type == "Deconvolution" else "Conv"
    weights = [g.blob(k) for k in range(len(layer.blobs))]
    return [g.op(type, name, *weights, kernel_shape=layer.kernel, strides=layer.stride, pads=[*layer.pad, *layer.pad], dilations=layer.dilation, group=layer.groups) for name in x]


@form("SeparableConvolution")
def separable(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    d = layer.depthwise
    between = g.op("Conv", x[0], g.blob(0), kernel_shape=d.kernel, strides=d.stride, pads=[*d.pad, *d.pad], dilations=d.dilation, group=d.groups)
    return str(g.op("Conv", g.op("Relu", between) if layer.activates else between, *[g.blob(k) for k in range(1, len(layer.blobs))]))


@form("InnerProduct")
def inner_product(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    shape = bottom[0].shape
    if layer.pair:                           # index -1 is padding; Gather takes the last row for it, and its value is 0
        rows = g.op("Gather", g.constant(g.array(0) if layer.transposed else g.array(0).T), g.op("Cast", x[1], to=7))
        sums = g.op("MatMul", g.reshape(x[0], shape, (shape[0], 1, shape[1])), rows)
        y = g.reshape(sums, (shape[0], 1, layer.outputs), (shape[0], layer.outputs))
        return str(g.op("Add", y, g.blob(1)) if len(layer.blobs) > 1 else y)
    flat = g.reshape(x[0], shape, (*shape[:layer.first], layer.inputs))
    if layer.first == 1:
        return str(g.op("Gemm", flat, *[g.blob(k) for k in range(len(layer.blobs))], transB=int(not layer.transposed)))
    product = g.op("MatMul", flat, g.constant(g.array(0) if layer.transposed else g.array(0).T))
    return str(g.op("Add", product, g.blob(1)) if len(layer.blobs) > 1 else product)


@form("Embed")
def embed(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    rows = g.op("Gather", g.blob(0), g.op("Cast", x[0], to=7))                    # int64
    return str(g.op("Add", rows, g.blob(1)) if len(layer.blobs) > 1 else rows)


# ------------------------------------------------------------------------------------------------ pooling, normalisation


@form("Pooling")
def pooling(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    """Windows that hang over the far edge are given that much padding; what AVE divides by counts its own padding only."""
    h, w, *rest = layer.window
    out, kernel, stride, pad = (rest[i:i + 2] for i in range(0, 8, 2))
    if layer.stochastic or layer.empty_windows or len(top) > 1:
        g.refuse("random pooling, windows without pixels, and the places of maxima are Caffe's alone")
    if layer.whole:
        return str(g.op("GlobalMaxPool" if layer.max else "GlobalAveragePool", x[0]))
    source = x[0]
    if not layer.max and any(pad):
        source = g.op("Pad", source, g.constant([0, 0, *pad, 0, 0, *pad], np.int64))
    before = pad if layer.max else [0, 0]
    size = [d + (p if layer.max else 2 * p) for d, p in zip((h, w), pad)]          # with what lies before, and AVE's padding
    after = [max(0, (o - 1) * s + k - d) for o, s, k, d in zip(out, stride, kernel, size)]
    return str(g.op("MaxPool" if layer.max else "AveragePool", source, kernel_shape=kernel, strides=stride, pads=[*before, *after]))


@form("ROIPooling")
def roi_pooling(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p = layer.param.roi_pooling_param
    g.fixed_batch()
    return str(g.op("MaxRoiPool", x[0], g.reshape(x[1], bottom[1].shape, bottom[1].shape[:2]), pooled_shape=[p.pooled_h, p.pooled_w], spatial_scale=p.spatial_scale))


@form("LRN")
def lrn(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    n, pad = layer.size, (layer.size - 1) // 2
    if not layer.within:
        return str(g.op("LRN", x[0], size=n, alpha=layer.alpha, beta=layer.beta, bias=layer.param.lrn_param.k))
    mean = g.op("AveragePool", g.op("Mul", x[0], x[0]), kernel_shape=[n, n], pads=[pad] * 4, count_include_pad=1)
    return str(g.op("Mul", x[0], g.op("Pow", g.op("Add", g.op("Mul", mean, g.constant(layer.alpha)), g.constant(1)), g.constant(-layer.beta))))


@form("affine")
def affine(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    """All that scales and shifts channels: runtimes fold this operator into a convolution before it."""
    scale, shift = (np.asarray(v, np.float32).reshape(-1) for v in layer.affine())
    one, zero = np.ones_like(scale), np.zeros_like(scale)
    return str(g.op("BatchNormalization", x[0], *[g.constant(v) for v in (scale, shift, zero, one)], epsilon=0.0))


@form("Scale", "Bias")
def broadcast(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    part, after = layer.operand(bottom).shape, len(bottom[0].shape) - layer.first - len(layer.operand(bottom).shape)
    if len(x) > 1:
        operand = g.reshape(x[1], part, (*part, *[1] * after))
    else:
        operand = g.constant(g.array(0).reshape(*part, *[1] * after))
    if layer.type == "Bias":
        return str(g.op("Add", x[0], operand))
    y = g.op("Mul", x[0], operand)
    return str(g.op("Add", y, g.constant(layer.bias.data.reshape(*part, *[1] * after))) if layer.bias is not None else y)


@form("Normalize")
def normalize(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    shape, p = bottom[0].shape, layer.param.norm_param
    axes = list(range(1, len(shape))) if p.across_spatial else [1]
    length = g.op("Sqrt", g.op("Add", g.op("ReduceSumSquare", x[0], axes=axes, keepdims=1), g.constant(p.eps)))
    return str(g.op("Mul", g.op("Div", x[0], length), g.constant(channels(g.array(0), shape))))


@form("MVN")
def mvn(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    shape, p = bottom[0].shape, layer.param.mvn_param
    axes = list(range(1 if p.across_channels or len(shape) < 2 else 2, len(shape)))
    y = g.op("Sub", x[0], g.op("ReduceMean", x[0], axes=axes, keepdims=1))
    if not p.normalize_variance:
        return str(y)
    deviation = g.op("Sqrt", g.op("ReduceMean", g.op("Mul", y, y), axes=axes, keepdims=1))
    return str(g.op("Div", y, g.op("Add", deviation, g.constant(p.eps))))


@form("Softmax")
def softmax(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Softmax", x[0], axis=layer.param.softmax_param.axis))


# ------------------------------------------------------------------------------------------------ functions of one value

PLAIN = {"AbsVal": "Abs", "BNLL": "Softplus", "Sigmoid": "Sigmoid", "TanH": "Tanh"}


@form(*PLAIN)
def plain(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op(PLAIN[layer.type], x[0]))


@form("ReLU")
def relu(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("LeakyRelu", x[0], alpha=layer.slope) if layer.slope else g.op("Relu", x[0]))


@form("PReLU")
def prelu(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("PRelu", x[0], g.constant(channels(g.array(0), bottom[0].shape))))


@form("ELU")
def elu(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Elu", x[0], alpha=layer.param.elu_param.alpha))


@form("Swish")
def swish(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Mul", x[0], g.op("Sigmoid", g.op("Mul", x[0], g.constant(layer.param.swish_param.beta)))))


@form("Clip", "ReLU6")
def clip(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    low, high, _ = layer.args
    return str(g.op("Clip", x[0], g.constant(low), g.constant(high)))


@form("Threshold")
def threshold(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Cast", g.op("Greater", x[0], g.constant(layer.args[0])), to=1))       # float


def line(g: Graph, x: str, scale: float, shift: float) -> str:
    """scale x + shift."""
    x = x if scale == 1 else g.op("Mul", x, g.constant(scale))
    return x if shift == 0 else str(g.op("Add", x, g.constant(shift)))


@form("Power")
def power(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p = layer.param.power_param
    y = line(g, x[0], p.scale, p.shift)
    return y if p.power == 1 else str(g.op("Pow", y, g.constant(p.power)))


@form("Exp")
def exponential(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p = layer.param.exp_param
    base = 1.0 if p.base == -1 else log(p.base)
    return str(g.op("Exp", line(g, x[0], base * p.scale, base * p.shift)))


@form("Log")
def logarithm(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p = layer.param.log_param
    return line(g, g.op("Log", line(g, x[0], p.scale, p.shift)), 1.0 if p.base == -1 else 1 / log(p.base), 0)


@form("Split")
def same(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> Names:
    return x * len(top)


@form("Dropout")
def dropout(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return line(g, x[0], layer.test_scale, 0)


@form("StochasticDepth")
def stochastic_depth(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return line(g, x[0], layer.survival, 0)


# ------------------------------------------------------------------------------------------------------- several blobs


@form("Eltwise")
def eltwise(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    if layer.operation == "sum":
        x = [line(g, name, c, 0) for name, c in zip(x, layer.coeff)]
    y = x[0]
    for other in x[1:]:
        y = g.op({"sum": "Add", "product": "Mul", "maximum": "Max"}[layer.operation], y, other)
    return y


@form("Axpy")
def axpy(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    shape = bottom[1].shape
    return str(g.op("Add", g.op("Mul", g.reshape(x[0], bottom[0].shape, (*shape[:2], *[1] * (len(shape) - 2))), x[1]), x[2]))


@form("Concat")
def concat(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Concat", *x, axis=layer.along))


@form("Slice")
def slice_(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> Names:
    if len(top) == 1:
        return x
    return list(g.op("Split", x[0], g.constant([t.shape[layer.along] for t in top], np.int64), outputs=len(top), axis=layer.along))


@form("Crop")
def crop(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    cut = [(axis, part.start, part.stop) for axis, part in enumerate(layer.window) if (part.start, part.stop) != (0, bottom[0].shape[axis])]
    return cut_out(g, x[0], cut)


def cut_out(g: Graph, x: str, cut: list[tuple[int, int, int]]) -> str:
    """The part of x with begin <= place < end along each (axis, begin, end)."""
    if not cut:
        return x
    axes, begins, ends = (g.constant(values, np.int64) for values in zip(*cut))
    return str(g.op("Slice", x, begins, ends, axes))


# ---------------------------------------------------------------------------------------------------- shapes and places


@form("Flatten", "Reshape")
def reshape(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return g.reshape(x[0], bottom[0].shape, top[0].shape)


@form("Permute", "Transpose")
def permute(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return str(g.op("Transpose", x[0], perm=layer.order))


@form("Tile")
def tile(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p, axes = layer.param.tile_param, len(bottom[0].shape)
    return str(g.op("Tile", x[0], g.constant([p.tiles if axis == p.axis % axes else 1 for axis in range(axes)], np.int64)))


@form("ShuffleChannel")
def shuffle_channel(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    n, c, *rest = bottom[0].shape
    dealt = (n, layer.group, c // layer.group, prod(rest))
    y = g.op("Transpose", g.reshape(x[0], bottom[0].shape, dealt), perm=[0, 2, 1, 3])
    return g.reshape(y, (n, dealt[2], dealt[1], dealt[3]), bottom[0].shape)


@form("Reorg")
def reorg(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    n, c, h, w = bottom[0].shape
    s = layer.stride
    wide, order = ((n, c // (s * s), s, s, h, w), [0, 1, 4, 2, 5, 3]) if layer.param.reorg_param.reverse else ((n, c, h // s, s, w // s, s), [0, 1, 3, 5, 2, 4])
    y = g.op("Transpose", g.reshape(x[0], bottom[0].shape, wide), perm=order)
    return g.reshape(y, [wide[i] for i in order], top[0].shape)


@form("Reverse")
def reverse(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    axis = len(layer.turn) - 1
    if axis == 0:
        g.fixed_batch()
    return str(g.op("Gather", x[0], g.constant(np.arange(bottom[0].shape[axis])[::-1], np.int64), axis=axis))


@form("Padding")
def padding(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p = layer.param.padding_param
    return str(g.op("Pad", x[0], g.constant([0, 0, p.pad_beg, p.pad_beg, 0, 0, p.pad_end, p.pad_end], np.int64)))


@form("Interp")
def interp(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    h, w, y0, x0, inner_h, inner_w, *out = layer.shape
    part = cut_out(g, x[0], [(axis, begin, begin + size) for axis, begin, size, whole in ((2, y0, inner_h, h), (3, x0, inner_w, w)) if size != whole])
    g.fixed_batch()
    sizes = g.constant([*top[0].shape[:2], *out], np.int64)
    return str(g.op("Resize", part, "", "", sizes, mode="linear", coordinate_transformation_mode="align_corners"))


@form("Reduction")
def reduction(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    p, axes = layer.param.reduction_param, len(bottom[0].shape)
    over = list(range(p.axis % axes, axes))
    if 0 in over:
        g.fixed_batch()
    if p.operation == p.SUM:
        y = g.op("ReduceSum", x[0], g.constant(over, np.int64), keepdims=0)
    else:
        y = g.op({p.ASUM: "ReduceL1", p.SUMSQ: "ReduceSumSquare", p.MEAN: "ReduceMean"}[p.operation], x[0], axes=over, keepdims=0)
    return line(g, y, p.coeff, 0)


@form("ArgMax")
def argmax(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    """With top_k more than 1 the order of equal values is the runtime's."""
    p, shape = layer.param.argmax_param, bottom[0].shape
    flat = layer.along is None
    source, axis = (g.reshape(x[0], shape, (shape[0], prod(shape[1:]))), 1) if flat else (x[0], layer.along)
    if p.top_k == 1 and not p.out_max_val:
        places = g.op("ArgMax", source, axis=axis, keepdims=1, select_last_index=1)
    else:
        values, places = g.op("TopK", source, g.constant([p.top_k], np.int64), outputs=2, axis=axis)
    places = g.op("Cast", places, to=1)
    if not flat:
        return str(values if p.out_max_val else places)
    n, k = shape[0], p.top_k
    y = g.reshape(places, (n, k), (n, 1, k))
    if p.out_max_val:
        y = g.op("Concat", y, g.reshape(values, (n, k), (n, 1, k)), axis=1)
    return g.reshape(y, (n, 2 if p.out_max_val else 1, k), top[0].shape)


@form("PriorBox")
def prior_box(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    """A constant: it depends on shapes alone."""
    layer.forward(bottom, top)
    return g.constant(top[0].data)


@form("Parameter")
def parameter(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> str:
    return g.blob(0)


# ------------------------------------------------------------------------------------------------------------ sequences


@form("LSTM", "RNN")
def recurrent(g: Graph, layer: Any, x: Names, bottom: Blobs, top: Blobs) -> Names:
    """Step by step, for `cont` may cut a sequence anywhere. A state that goes on from batch to batch is an input, NAME_h_0 (zero
    unless it is given), and an output, NAME_h; for LSTM NAME_c_0 and NAME_c, too."""
    g.fixed_batch()
    steps, n, hidden = layer.steps, layer.sequences, layer.hidden
    matrix = g.reshape(x[0], bottom[0].shape, (steps, n, layer.inputs))
    sums = g.op("Add", g.op("MatMul", matrix, g.constant(g.array(0).T)), g.blob(1))
    if layer.static:
        given = g.reshape(x[2], bottom[2].shape, (n, layer.static_inputs))
        sums = g.op("Add", sums, g.op("MatMul", given, g.constant(g.array(2).T)))
    inner = g.constant(g.array(layer.recurrent).T)
    conts = _steps(g, g.reshape(x[1], (steps, n), (steps, n, 1)), steps, (n, 1))
    before = _steps(g, sums, steps, (n, layer.gates * hidden))
    states = "hc"[:layer.states]
    if layer.exposed:
        h, *c = [g.reshape(name, (1, n, hidden), (n, hidden)) for name in x[len(x) - layer.states:]]
    else:
        h, *c = [f"{layer.name}_{s}_0" for s in states]
        for name in (h, *c):
            g.inputs[name] = (n, hidden)
            g.weights[name] = np.zeros((n, hidden), np.float32)
    found = []
    for cont, sum_ in zip(conts, before):
        sum_ = g.op("Add", sum_, g.op("MatMul", g.op("Mul", h, cont), inner))
        if layer.type == "LSTM":
            i, f, o, cell = g.op("Split", sum_, outputs=4, axis=1)
            kept = g.op("Mul", g.op("Mul", cont, g.op("Sigmoid", f)), c[0])
            c = [g.op("Add", kept, g.op("Mul", g.op("Sigmoid", i), g.op("Tanh", cell)))]
            h = g.op("Mul", g.op("Sigmoid", o), g.op("Tanh", c[0]))
            found.append(g.reshape(h, (n, hidden), (1, n, hidden)))
        else:
            h = g.op("Tanh", sum_)
            out = g.op("Tanh", g.op("Add", g.op("MatMul", h, g.constant(g.array(-2).T)), g.blob(len(layer.blobs) - 1)))
            found.append(g.reshape(out, (n, hidden), (1, n, hidden)))
    y = g.op("Concat", *found, axis=0) if steps > 1 else found[0]
    if layer.exposed:
        return [y, *[g.reshape(state, (n, hidden), (1, n, hidden)) for state in (h, *c)]]
    for name, state in zip(states, (h, *c)):
        g.output(state, f"{layer.name}_{name}", (n, hidden))
    return [y]


def _steps(g: Graph, x: str, steps: int, shape: tuple[int, ...]) -> Names:
    """The steps of x (T, ...), each of `shape`."""
    parts = [x] if steps == 1 else g.op("Split", x, outputs=steps, axis=0)
    return [g.reshape(part, (1, *shape), shape) for part in parts]
