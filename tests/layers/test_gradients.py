"""The gradients of every layer against differences, for every parameter that changes the arithmetic, on every device."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.tools.gradient_check import GradientError, check_gradient, one_layer_net

IMAGE = (2, 5, 6, 7)
CONV = [f"num_output: {o} kernel_size: {k} stride: {s} pad: {p} dilation: {d} group: {g} bias_term: {b}"
        for o, k, s, p, d, g, b in [(4, 3, 1, 0, 1, 1, "true"), (4, 3, 2, 1, 1, 1, "false"), (6, 1, 1, 0, 1, 1, "true"), (4, 3, 1, 2, 2, 1, "true"),
                                    (8, 3, 1, 1, 1, 2, "true"), (4, 5, 2, 2, 1, 4, "true"), (20, 3, 1, 1, 1, 1, "true")]]
POOL = [f"pool: {m} kernel_size: {k} stride: {s} pad: {p}" for m in ("MAX", "AVE") for k, s, p in [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (4, 4, 0)]]
# (what stands in the layer, shapes of the bottoms, bottoms without a gradient)
CASES: list[tuple[str, list[tuple[int, ...]], tuple[int, ...]]] = [
    *((f'type: "Convolution" top: "y" convolution_param {{ {c} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', [(2, 4, 6, 7)], ()) for c in CONV),
    ('type: "Convolution" top: "y" convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: "xavier" } }', [(2, 2, 4, 5, 3)], ()),
    ('type: "Convolution" top: "y" convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } }', [(2, 2, 7)], ()),
    ('type: "Convolution" top: "y" top: "z" convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } }', [(2, 4, 5, 5)] * 2, ()),
    *((f'type: "InnerProduct" top: "y" inner_product_param {{ num_output: 4 {o} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', [(3, 2, 5)], ())
      for o in ("", "transpose: true", "axis: 2", "bias_term: false")),
    *((f'type: "Pooling" top: "y" pooling_param {{ {p} }}', [IMAGE], ()) for p in POOL),
    ('type: "Pooling" top: "y" pooling_param { pool: AVE global_pooling: true }', [IMAGE], ()),
    ('type: "Pooling" top: "y" pooling_param { pool: MAX kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0 round_mode: FLOOR }', [IMAGE], ()),
    ('type: "ReLU" top: "y"', [IMAGE], ()),
    ('type: "ReLU" top: "y" relu_param { negative_slope: 0.1 }', [IMAGE], ()),
    ('type: "Sigmoid" top: "y"', [IMAGE], ()),
    ('type: "TanH" top: "y"', [IMAGE], ()),
    *((f'type: "{t}" top: "y"', [IMAGE], ()) for t in ("AbsVal", "BNLL", "ELU", "Swish", "PReLU", "Exp", "Power")),
    ('type: "ELU" top: "b0" elu_param { alpha: 0.5 }', [IMAGE], ()),
    ('type: "Swish" top: "b0" swish_param { beta: 2 }', [IMAGE], ()),
    ('type: "Clip" top: "y" clip_param { min: -0.5 max: 0.75 }', [IMAGE], ()),
    ('type: "PReLU" top: "b0" prelu_param { filler { type: "gaussian" } }', [IMAGE], ()),
    ('type: "PReLU" top: "y" prelu_param { channel_shared: true }', [(3, 4)], ()),
    ('type: "Exp" top: "y" exp_param { base: 2 scale: 0.5 shift: 1 }', [IMAGE], ()),
    ('type: "Log" top: "y" log_param { base: 10 scale: 0.25 shift: 20 }', [IMAGE], ()),
    ('type: "Log" top: "b0" log_param { scale: 0.25 shift: 20 }', [IMAGE], ()),
    *((f'type: "Power" top: "y" power_param {{ {p} }}', [IMAGE], ()) for p in ("power: 2 shift: 1", "power: 0.5 scale: 0.5 shift: 20", "power: -1 shift: 20", "power: 0 shift: 2", "scale: 0 shift: 2", "power: 3 scale: 0.2")),
    ('type: "Dropout" top: "y" dropout_param { dropout_ratio: 0.3 }', [IMAGE], ()),
    ('type: "Dropout" top: "y" dropout_param { dropout_ratio: 0.3 scale_train: false }', [IMAGE], ()),
    *((f'type: "LRN" top: "y" lrn_param {{ local_size: {n} alpha: {a} beta: {b} k: {k} norm_region: {r} }}', [IMAGE], ())
      for n, a, b, k in [(3, 1, 0.75, 1), (5, 0.5, 0.5, 2), (1, 1, 0.75, 1)] for r in ("ACROSS_CHANNELS", "WITHIN_CHANNEL")),
    ('type: "BatchNorm" top: "y"', [IMAGE], ()),
    ('type: "BatchNorm" top: "y"', [(6, 4)], ()),
    ('type: "BatchNorm" top: "y" batch_norm_param { use_global_stats: true }', [IMAGE], ()),
    *((f'type: "Scale" top: "y" scale_param {{ {o} filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', [IMAGE], ())
      for o in ("", "bias_term: true", "axis: 2 num_axes: 2 bias_term: true", "num_axes: 0 bias_term: true", "axis: 0 num_axes: -1")),
    ('type: "Scale" top: "y" scale_param { axis: 1 bias_term: true }', [IMAGE, (5, 6)], ()),
    *((f'type: "Bias" top: "y" bias_param {{ {o} filler {{ type: "gaussian" }} }}', [IMAGE], ()) for o in ("", "axis: 1 num_axes: 2", "num_axes: 0")),
    ('type: "Bias" top: "y" bias_param { axis: 0 }', [IMAGE, (2, 5)], ()),
    ('type: "Eltwise" top: "y"', [IMAGE] * 3, ()),
    ('type: "Eltwise" top: "y" eltwise_param { coeff: 1 coeff: -0.5 }', [IMAGE] * 2, ()),
    ('type: "Eltwise" top: "y" eltwise_param { operation: PROD }', [IMAGE] * 3, ()),
    ('type: "Eltwise" top: "y" eltwise_param { operation: PROD stable_prod_grad: false }', [IMAGE] * 2, ()),
    ('type: "Eltwise" top: "y" eltwise_param { operation: MAX }', [IMAGE] * 3, ()),
    ('type: "Concat" top: "y"', [IMAGE, (2, 3, 6, 7)], ()),
    ('type: "Concat" top: "y" concat_param { axis: -1 }', [(2, 3), (2, 4), (2, 1)], ()),
    ('type: "Split" top: "y" top: "z" top: "u"', [IMAGE], ()),
    ('type: "Flatten" top: "y"', [IMAGE], ()),
    ('type: "Reshape" top: "y" reshape_param { shape { dim: 0 dim: -1 dim: 2 } }', [(2, 5, 6)], ()),
    *((f'type: "Deconvolution" top: "y" convolution_param {{ {c} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', [(2, 4, 4, 5)], ())
      for c in ("num_output: 3 kernel_size: 3", "num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false", "num_output: 2 kernel_size: 2 stride: 3 dilation: 2 group: 2")),
    ('type: "Im2col" top: "y" convolution_param { kernel_size: 3 stride: 2 pad: 1 }', [IMAGE], ()),
    ('type: "Im2col" top: "y" convolution_param { kernel_size: 2 dilation: 2 }', [(2, 3, 4, 5, 4)], ()),
    *((f'type: "SPP" top: "y" spp_param {{ pyramid_height: {h} pool: {p} }}', [IMAGE], ()) for h in (1, 3) for p in ("MAX", "AVE")),
    ('type: "Slice" top: "y" top: "z" top: "u" slice_param { axis: 1 slice_point: 1 slice_point: 4 }', [IMAGE], ()),
    ('type: "Slice" top: "y" top: "z" slice_param { axis: 2 }', [IMAGE], ()),
    ('type: "Crop" top: "y" crop_param { axis: 2 offset: 1 offset: 2 }', [IMAGE, (2, 5, 4, 3)], (1,)),
    ('type: "Tile" top: "y" tile_param { axis: 1 tiles: 3 }', [IMAGE], ()),
    *((f'type: "Reduction" top: "y" reduction_param {{ operation: {o} axis: {a} coeff: 0.5 }}', [(3, 2, 4)], ()) for o in ("SUM", "ASUM", "SUMSQ", "MEAN") for a in (0, 1)),
    ('type: "BatchReindex" top: "y"', [(5, 3), (7,)], (1,)),
    ('type: "Filter" top: "y" top: "z"', [(5, 3), (5,), (5, 1)], (2,)),
    ('type: "Embed" top: "y" embed_param { input_dim: 5 num_output: 3 weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } }', [(4, 3)], (0,)),
    ('type: "Embed" top: "y" embed_param { input_dim: 5 num_output: 3 sparse_gradient: true weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } }', [(4, 3)], (0,)),
    ('type: "InnerProduct" top: "y" inner_product_param { num_output: 3 sparse_gradient: true weight_filler { type: "gaussian" } bias_filler { type: "gaussian" } }', [(4, 5)], ()),
    *((f'type: "InnerProduct" top: "y" inner_product_param {{ num_output: 3 input_dim: 5 transpose: {t} bias_term: {b} weight_filler {{ type: "gaussian" }} }}', [(4, 6), (4, 6)], (1,))
      for t in ("true", "false") for b in ("true", "false")),
    *((f'type: "LSHInnerProduct" top: "y" top: "u" inner_product_param {{ num_output: 30 {m} weight_filler {{ type: "gaussian" std: 0.5 }} }} lsh_param {{ {p} }}', shapes, tuple(range(1, len(shapes))))
      for p, m in (("hash: WTA num_hashes: 1 num_tables: 4 num_samples: 12", ""), ("hash: DWTA num_hashes: 1 num_tables: 4 num_samples: 12", "bias_term: false"),
                   ("sampling: UNIFORM num_samples: 30", ""), ("sampling: UNIFORM num_samples: 12 active_set: BATCH", ""),
                   ("hash: SIMHASH num_hashes: 2 num_tables: 4 num_samples: 30 active_set: BATCH", ""),
                   ("hash: WTA num_hashes: 1 num_tables: 4 num_samples: 12 active_set: BATCH sampling: THRESHOLD", "bias_term: false"),
                   ("hash: DWTA num_hashes: 1 num_tables: 4 num_samples: 12 sampling: TOP_K", "input_dim: 12"))
      for shapes in ([[(4, 10)] * 2, [(4, 10)] * 2 + [(4, 3)]] if "input_dim" in m else [[(4, 12)], [(4, 12), (4, 3)]])),
    *((f'type: "MVN" top: "y" mvn_param {{ {o} }}', [(2, 3, 4, 2)], ()) for o in ("", "across_channels: true", "normalize_variance: false")),
    *((f'type: "HingeLoss" top: "y" hinge_loss_param {{ norm: {n} }}', [(4, 5), (4,)], (1,)) for n in ("L1", "L2")),
    *((f'type: "ContrastiveLoss" top: "y" contrastive_loss_param {{ margin: 3 {o} }}', [(4, 3), (4, 3), (4,)], (2,)) for o in ("", "legacy_version: true")),
    *((f'type: "SigmoidCrossEntropyLoss" top: "y" loss_param {{ {o} }}', [(3, 4), (3, 4)], (1,)) for o in ("", "ignore_label: 1", "normalization: VALID")),
    *((f'type: "InfogainLoss" top: "y" loss_param {{ {o} }}', [(3, 5), (3,), (5, 5)], (1, 2)) for o in ("", "ignore_label: 1", "normalization: FULL")),
    ('type: "Softmax" top: "y"', [(3, 4, 2)], ()),
    ('type: "Softmax" top: "y" softmax_param { axis: 2 }', [(3, 4, 5)], ()),
    ('type: "EuclideanLoss" top: "y"', [(3, 4), (3, 4)], ()),
    *((f'type: "SoftmaxWithLoss" top: "y" loss_param {{ {o} }}', [(3, 5, 2), (3, 2)], (1,))
      for o in ("", "ignore_label: 1", "normalization: FULL", "normalization: BATCH_SIZE", "normalization: NONE", "normalization: PRE_FIXED pre_fixed_normalizer: 4",
                "label_smoothing: 0.1", "label_smoothing: 0.1 ignore_label: 1", "class_weighting: [1, 2, 0.5, 0, 3]")),
    ('type: "SoftmaxWithLoss" top: "y" loss_param { label_smoothing: 0.2 ignore_label: 2 }', [(3, 5, 2), (3, 2), (3, 2)], (1, 2)),
    ('type: "SoftmaxWithLoss" top: "y"', [(3, 5, 2), (3, 2), (3,)], (1, 2)),
    ('type: "SoftmaxWithLoss" top: "y"', [(3, 5, 2), (3, 5, 2)], (1,)),
    ('type: "SoftmaxWithLoss" top: "y" loss_param { normalization: NONE }', [(3, 5), (3, 5), (3,)], (1, 2)),
    # losses with lists of labels, over all outputs and over active sets
    *((f'type: "{t}" top: "y" loss_param {{ label_lists: true {o} }}', [(4, 6), (4, 3), (4,)][:n], (1, 2)[:n - 1])
      for t in ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss")
      for n, o in ((2, ""), (3, ""), (2, "normalization: VALID"), (2, "normalization: NONE"))),
    *((f'type: "Sampled{t}" top: "y" loss_param {{ {o} }}', [(4, s), (4, s), (4, 3), (4,)][:n], (1, 2, 3)[:n - 1])
      for t in ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss")
      for s, n, o in ((7, 3, ""), (7, 4, ""), (67, 3, "normalization: VALID"), (5, 3, "normalization: FULL"))),
    # losses with a weight for each item
    ('type: "EuclideanLoss" top: "y"', [(3, 4), (3, 4), (3,)], (2,)),
    ('type: "SigmoidCrossEntropyLoss" top: "y" loss_param { ignore_label: 1 }', [(3, 4), (3, 4), (3,)], (1, 2)),
    ('type: "HingeLoss" top: "y" hinge_loss_param { norm: L2 }', [(4, 5), (4,), (4,)], (1, 2)),
    ('type: "ContrastiveLoss" top: "y" contrastive_loss_param { margin: 3 }', [(4, 3), (4, 3), (4,), (4,)], (2, 3)),
    ('type: "InfogainLoss" top: "y"', [(3, 5, 2), (3, 2), (5, 5), (3, 2)], (1, 2, 3)),
    # layers of forks
    *((f'type: "SmoothL1Loss" top: "y" smooth_l1_loss_param {{ sigma: {s} }}', [(3, 4)] * n, tuple(range(2, n))) for s in (1, 3) for n in (2, 3, 4)),
    ('type: "SmoothL1LossOHEM" top: "y" loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 2 }', [(3, 4, 2)] * 3, (2,)),
    ('type: "Permute" top: "y" permute_param { order: 0 order: 3 }', [IMAGE], ()),
    ('type: "Transpose" top: "y" transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }', [IMAGE], ()),
    ('type: "Reverse" top: "y" reverse_param { axis: 1 }', [IMAGE], ()),
    ('type: "ShuffleChannel" top: "y" shuffle_channel_param { group: 2 }', [(2, 6, 3, 2)], ()),
    ('type: "Reorg" top: "y"', [(2, 3, 4, 6)], ()),
    ('type: "Reorg" top: "y" reorg_param { reverse: true }', [(2, 8, 2, 3)], ()),
    ('type: "Padding" top: "y" padding_param { pad_beg: -1 pad_end: 2 }', [IMAGE], ()),
    ('type: "Padding" top: "y" padding_param { pad_beg: 2 pad_end: -3 }', [IMAGE], ()),
    *((f'type: "Interp" top: "y" interp_param {{ {o} }}', [IMAGE], ()) for o in ("height: 9 width: 4", "zoom_factor: 3", "shrink_factor: 2 pad_beg: -1", "height: 1 width: 1", "height: 11 width: 13 pad_end: -2")),
    ('type: "Interp" top: "y" interp_param { use_blob_size: true }', [IMAGE, (1, 1, 4, 3)], ()),
    ('type: "Upsample" top: "y" upsample_param { scale_h: 2 scale_w: 3 }', [IMAGE], ()),
    *((f'type: "Normalize" top: "y" norm_param {{ across_spatial: {a} channel_shared: {c} scale_filler {{ type: "uniform" min: 1 max: 3 }} }}', [(2, 3, 2, 4)], ()) for a in ("true", "false") for c in ("true", "false")),
    ('type: "Axpy" top: "y"', [(2, 5), IMAGE, IMAGE], ()),
    ('type: "Axpy" top: "y"', [(2, 5, 1, 1), IMAGE, IMAGE], ()),
    ('type: "ReLU6" top: "b0"', [IMAGE], ()),
    *((f'type: "BatchNorm" top: "{t}" batch_norm_param {{ scale_bias: true use_global_stats: {g} scale_filler {{ type: "uniform" min: 1 max: 2 }} }}', [IMAGE], ()) for g in ("true", "false") for t in ("y", "b0")),
    *((f'type: "BN" top: "{t}" bn_param {{ {o}_filler {{ type: "uniform" min: 1 max: 2 }} {more} }}', [IMAGE], ())
      for t in ("y", "b0") for o, more in (("slope", ""), ("scale", ""), ("scale", "bn_mode: INFERENCE"))),
    ('type: "BN" top: "y" bn_param { frozen: true }', [IMAGE], ()),
    ('type: "DepthwiseConvolution" top: "y" convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } }', [(2, 4, 6, 7)], ()),
    ('type: "ConvolutionDepthwise" top: "y" convolution_param { num_output: 8 kernel_size: 3 stride: 2 group: 4 weight_filler { type: "gaussian" } }', [(2, 4, 6, 7)], ()),
    # layers of brew's own
    *((f'type: "SeparableConvolution" top: "y" separable_convolution_param {{ num_output: 3 kernel_size: 3 {o} weight_filler {{ type: "gaussian" }} }}', [(2, 4, 6, 7)], ())
      for o in ("", "pad: 1 stride: 2 depth_multiplier: 2 bias_term: false")),
    *((f'type: "StochasticDepth" top: "{t}" stochastic_depth_param {{ survival: 0.7 per_item: {i} }}', [IMAGE], ()) for i in ("true", "false") for t in ("y", "b0")),
]


def fill(net: brew.Net, labels: tuple[int, ...]) -> None:
    """Bottoms with values that are all different and never near a kink: multiples of 0.05 plus 0.025, in random order."""
    rng = np.random.default_rng(1701)
    total = sum(blob.count for blob in net.bottoms[-1])
    values = (rng.permutation(total) - total // 2) * min(0.05, 4 / total + 0.021) + 0.025
    for i, blob in enumerate(net.bottoms[-1]):
        blob.data[...] = rng.integers(0, 5, blob.shape) if i in labels else values[:blob.count].reshape(blob.shape)
        values = values[blob.count:]
    if "Sampled" in net.layers[-1].type:
        fill_active_sets(rng, *net.bottoms[-1][1:3])
    elif net.layers[-1].param.loss_param.label_lists:
        net.bottoms[-1][1].data[...] -= 1
        net.bottoms[-1][1].data[-1:] = -1                     # an item without labels
    for blob in net.layers[-1].blobs if net.layers[-1].type in ("BatchNorm", "BN") else []:
        blob.data[...] = 0.5 + 0.3 * np.arange(blob.count).reshape(blob.shape)


def fill_active_sets(rng: np.random.Generator, unit: brew.Blob, label: brew.Blob) -> None:
    """Distinct units in random order with one place of padding, and labels among them; the last item has none."""
    for n in range(len(unit.data)):
        unit.data[n] = rng.permutation(3 * unit.shape[1])[:unit.shape[1]]
        unit.data[n, n % unit.shape[1]] = -1
        label.data[n] = rng.choice(unit.data[n], label.shape[1])
    label.data[-1:] = -1


@pytest.mark.parametrize("layer, shapes, labels", CASES, ids=lambda v: v.replace('top: "y" ', "").replace('"', "")[:80] if isinstance(v, str) else "")
def test_gradient_is_that_of_the_function(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    net = one_layer_net(layer, *shapes)
    fill(net, labels)
    check_gradient(net, skip=labels)


def test_a_wrong_gradient_is_found() -> None:
    net = one_layer_net('type: "TanH" top: "y"', (2, 3))
    fill(net, ())
    net.layers[-1].differentiate = lambda y, dy, dx: dx.__setitem__(..., dy * (1 - y))  # type: ignore[attr-defined]
    with pytest.raises(GradientError, match=r"bottom\[0\]\[0, 0\]: backward says"):
        check_gradient(net)
