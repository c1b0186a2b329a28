"""Layers that run as one in TEST: convolution with BatchNorm, Scale, a sum and ReLU."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.proto import parse, pb

CONVOLUTIONS = {
    "Convolution": 'type: "Convolution" convolution_param { num_output: 16 kernel_size: 3 pad: 1 %s weight_filler { type: "msra" } bias_filler { type: "uniform" } }',
    "DepthwiseConvolution": 'type: "DepthwiseConvolution" convolution_param { num_output: 16 kernel_size: 3 pad: 1 %s weight_filler { type: "msra" } bias_filler { type: "uniform" } }',
    "SeparableConvolution": 'type: "SeparableConvolution" separable_convolution_param { num_output: 16 kernel_size: 3 pad: 1 %s weight_filler { type: "msra" } bias_filler { type: "uniform" } }'}
NORMS = {
    "BatchNorm": 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }',
    "BatchNorm and Scale": 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" } layer { name: "s" type: "Scale" bottom: "c" top: "c" '
                           'scale_param { bias_term: true filler { type: "uniform" min: -1 } bias_filler { type: "uniform" } } }',
    "BatchNorm of five": 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" batch_norm_param { scale_bias: true scale_filler { type: "uniform" min: -1 } bias_filler { type: "uniform" } } }',
    "BN": 'layer { name: "bn" type: "BN" bottom: "c" top: "c" bn_param { slope_filler { type: "uniform" min: -1 } bias_filler { type: "uniform" } } }',
    "BN, merged": 'layer { name: "bn" type: "BN" bottom: "c" top: "c" bn_param { bn_mode: INFERENCE scale_filler { type: "uniform" min: -1 } shift_filler { type: "uniform" } } }',
    "Scale": 'layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { filler { type: "uniform" min: -1 } } }'}
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }'
SUM = 'layer { name: "sum" type: "Eltwise" bottom: "x1" bottom: "c" top: "sum" %s } layer { name: "r2" type: "ReLU" bottom: "sum" top: "sum" }'
END = 'layer { name: "t" type: "TanH" bottom: "%s" top: "t" }'


CLOSE = {"rtol": 1e-5, "atol": 1e-5}          # values of the order of 1, from sums of larger ones that cancel


def build(convolution: str, after: str, end: str) -> brew.Net:
    text = ('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 16 dim: 6 dim: 7 } } } layer { name: "split" type: "Split" bottom: "x" top: "x0" top: "x1" }'
            f'layer {{ name: "conv" bottom: "x0" top: "c" {convolution} }}' + after + END % end)
    n = brew.Net(parse(text, pb.NetParameter(), "net.prototxt"), brew.TEST, seed=3)
    rng = np.random.default_rng(0)
    n.blobs["x"].data[...] = rng.standard_normal((2, 16, 6, 7))
    for name, blobs in n.params.items():
        if name == "bn" and len(blobs) != 2:                   # statistics as after some training
            statistics = blobs[2:] if n.layer_dict[name].type == "BN" else blobs[:3]
            for blob in statistics:
                blob.data[...] = rng.uniform(0.5, 2, blob.shape)
    return n


def both(n: brew.Net, twin: brew.Net) -> tuple[np.ndarray, np.ndarray]:
    """Results of a net with what runs as one, and of its twin, layer by layer."""
    if not any(twin.run.hooks.values()):
        twin.before_forward(lambda i: None)
    return n.forward()["t"].copy(), twin.forward()["t"].copy()


@pytest.mark.parametrize("bias", ["bias_term: true", "bias_term: false"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_scale_and_shift_are_folded_into_the_weights(kind: str, norm: str, bias: str, device: str) -> None:
    n, twin = (build(CONVOLUTIONS[kind] % bias, NORMS[norm] + RELU, "c") for _ in range(2))
    chain = n.fusions[2]
    assert [n.layers[k].type for k in chain] == [layer.type for layer in n.layers[3:-1]]
    np.testing.assert_allclose(*both(n, twin), **CLOSE)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("norm", ["BatchNorm and Scale", "Scale"])
def test_a_sum_is_taken_in_too(kind: str, norm: str, device: str) -> None:
    n, twin = (build(CONVOLUTIONS[kind] % "", NORMS[norm] + SUM % "", "sum") for _ in range(2))
    if device == "onednn":
        assert n.layers[n.fusions[2][-1]].name == "r2"
    np.testing.assert_allclose(*both(n, twin), **CLOSE)
    assert not n.keep_values
    np.testing.assert_allclose(n.blobs["c"].data, twin.blobs["c"].data, **CLOSE)      # never made; made for the look
    assert n.keep_values == (device == "onednn")                 # elsewhere nothing was hidden, and small blobs are never given up


def test_a_sum_with_other_factors_is_not() -> None:
    n, twin = (build(CONVOLUTIONS["Convolution"] % "", SUM % "eltwise_param { coeff: 1 coeff: -1 }", "sum") for _ in range(2))
    np.testing.assert_allclose(*both(n, twin), **CLOSE)


def test_a_blob_that_the_user_holds_is_made() -> None:
    n, twin = (build(CONVOLUTIONS["Convolution"] % "", NORMS["Scale"] + SUM % "", "sum") for _ in range(2))
    view, first = n.blobs["c"].data, both(n, twin)[0]
    np.testing.assert_allclose(view, twin.blobs["c"].data, **CLOSE)
    n.blobs["x"].data[...] *= 2
    twin.blobs["x"].data[...] *= 2
    found, expected = both(n, twin)
    np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(view, twin.blobs["c"].data, **CLOSE)
    assert not np.allclose(found, first)


@pytest.mark.parametrize("layer, index", [("conv", 0), ("conv", 1), ("bn", 0), ("bn", 1), ("bn", 2), ("s", 0), ("s", 1)])
def test_weights_that_change_are_folded_anew(layer: str, index: int, device: str) -> None:
    n, twin = (build(CONVOLUTIONS["Convolution"] % "", NORMS["BatchNorm and Scale"], "c") for _ in range(2))
    before = both(n, twin)[0]
    view = n.params[layer][index].data                           # held over runs: written without anybody being told
    for factor in (3, 0.7):
        view *= factor
        twin.params[layer][index].data[...] *= factor
        found, expected = both(n, twin)
        np.testing.assert_allclose(found, expected, **CLOSE)
        assert not np.allclose(found, before)


def test_a_test_net_sees_the_weights_of_each_iteration() -> None:
    net = ('layer { name: "x" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 16 dim: 6 dim: 7 } shape { dim: 2 } } }'
           f'layer {{ name: "conv" bottom: "x" top: "c" {CONVOLUTIONS["Convolution"] % ""} }} {NORMS["BatchNorm"]}'
           'layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.0001 } } }'
           'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }')
    param = pb.SolverParameter(base_lr=1e-4, lr_policy="fixed", random_seed=1, test_iter=[1], test_interval=100)
    parse(net, param.net_param, "net.prototxt")
    solver, x = brew.get_solver(param), np.random.default_rng(0).standard_normal((2, 16, 6, 7))
    for n in solver.nets:
        n.blobs["x"].data[...] = x
    losses = []
    for _ in range(3):
        solver.step(1)
        apart = brew.Net(param.net_param, brew.TEST, seed=1)
        apart.share_with(solver.net)
        apart.before_forward(lambda i: None)
        apart.blobs["x"].data[...] = x
        losses.append(solver.test(0)["loss"][0])
        assert losses[-1] == pytest.approx(apart.run_forward(), rel=1e-5)
    assert solver.test_nets[0].fusions == {1: [2]} and len(set(losses)) == 3
