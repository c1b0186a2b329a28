"""Layers of forks, and brew's own, against what they are made of or their formulas."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError, WeightsError
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

RNG = np.random.default_rng(4)


def forward(layer: str, *bottoms: np.ndarray, phase: int = pb.TRAIN) -> np.ndarray:
    net = one_layer_net(f'top: "y" {layer}', *(b.shape for b in bottoms), phase=phase)
    for i, values in enumerate(bottoms):
        net.blobs[f"b{i}"].data[...] = values
    net.forward()
    return net.blobs["y"].data.copy()


def image(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_moved_values_are_where_they_should_be(device: str) -> None:
    x = image(2, 4, 6, 3)
    np.testing.assert_array_equal(forward('type: "Permute" permute_param { order: 2 order: 0 }', x), x.transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(forward('type: "Transpose" transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }', x), x.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(forward('type: "Reverse" reverse_param { axis: -1 }', x), x[..., ::-1])
    np.testing.assert_array_equal(forward('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', x), x[:, [0, 2, 1, 3]])
    y = forward('type: "Reorg" reorg_param { stride: 3 }', x)
    assert y.shape == (2, 36, 2, 1) and y[1, 3 * 9 + 1 * 3 + 2, 1, 0] == x[1, 3, 4, 2]
    np.testing.assert_array_equal(forward('type: "Reorg" reorg_param { stride: 3 reverse: true }', y), x)
    np.testing.assert_array_equal(forward('type: "Padding" padding_param { pad_beg: 1 pad_end: -2 }', x), np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)))[:, :, :-2, :-2])


@pytest.mark.parametrize("layer, shape", [("height: 11 width: 5", (11, 5)), ("zoom_factor: 2", (13, 17)), ("shrink_factor: 2", (4, 5)), ("shrink_factor: 2 zoom_factor: 3", (10, 13)),
                                          ("pad_beg: -1 pad_end: -2 zoom_factor: 2", (7, 11))])
def test_resampling_meets_corners_and_mixes_between(layer: str, shape: tuple[int, int], device: str) -> None:
    x = image(2, 3, 7, 9)
    part = x[:, :, 1:-2, 1:-2] if "pad" in layer else x
    rows, cols = (np.linspace(0, n - 1, m) for n, m in zip(part.shape[2:], shape))
    along = np.stack([np.stack([np.interp(cols, range(part.shape[3]), line) for line in plane]) for plane in part.reshape(6, *part.shape[2:])])
    expected = np.stack([np.stack([np.interp(rows, range(part.shape[2]), line) for line in plane.T], 1) for plane in along]).reshape(2, 3, *shape)
    np.testing.assert_allclose(forward(f'type: "Interp" interp_param {{ {layer} }}', x), expected, rtol=1e-4, atol=1e-5)


def test_upsampling_puts_maxima_back_where_they_were(device: str) -> None:
    text = """force_backward: true layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 6 } } }
              layer { name: "pool" type: "Pooling" bottom: "x" top: "p" top: "mask" pooling_param { kernel_size: 2 stride: 2 } }
              layer { name: "up" type: "Upsample" bottom: "p" bottom: "mask" top: "y" propagate_down: true propagate_down: false upsample_param { scale: 2 pad_out_h: true } }"""
    net = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)
    net.blobs["x"].data[...] = x = image(2, 3, 5, 6)
    net.forward()
    y = net.blobs["y"].data
    assert y.shape == x.shape and (y != 0).sum() == 2 * 3 * 9 and ((y == 0) | (y == x)).all()
    np.testing.assert_array_equal(np.sort(y[y != 0]), np.sort(net.blobs["p"].data.ravel()))
    net.blobs["y"].diff[...] = x
    net.backward(start="up", end="up")
    np.testing.assert_array_equal(net.blobs["p"].diff, net.blobs["p"].data)
    net.blobs["mask"].data[0, 0, 0, 0] = 30
    with pytest.raises(DataError, match="the top's planes have 30 pixels"):
        net.forward(start="up", end="up")


@pytest.mark.parametrize("across", [True, False])
def test_normalising_makes_vectors_of_length_one(across: bool, device: str) -> None:
    x = image(2, 3, 4, 5)
    norm = np.sqrt((x.astype(float) ** 2).sum((1, 2, 3) if across else 1, keepdims=True))
    y = forward(f'type: "Normalize" norm_param {{ across_spatial: {str(across).lower()} scale_filler {{ value: 20 }} }}', x)
    np.testing.assert_allclose(y, 20 * x / norm, rtol=1e-5)


def test_relu6_and_axpy(device: str) -> None:
    x, y, a = 8 * image(2, 3, 4, 5), image(2, 3, 4, 5), image(2, 3, 1, 1)
    np.testing.assert_array_equal(forward('type: "ReLU6"', x), x.clip(0, 6))
    np.testing.assert_allclose(forward('type: "Axpy"', a, x, y), a * x + y, rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------- batch normalisation

def batch_norm_pair(layer: str) -> tuple[brew.Net, brew.Net]:
    """(BatchNorm and Scale, one layer that does both), in TRAIN."""
    two = parse("""force_backward: true layer { name: "in" type: "Input" top: "b0" input_param { shape { dim: 4 dim: 20 dim: 3 dim: 5 } } }
                   layer { name: "bn" type: "BatchNorm" bottom: "b0" top: "n" batch_norm_param { eps: 1e-5 } }
                   layer { name: "s" type: "Scale" bottom: "n" top: "y" scale_param { bias_term: true } }""", pb.NetParameter())
    return brew.Net(two, brew.TRAIN), one_layer_net(f'top: "y" {layer}', (4, 20, 3, 5))


@pytest.mark.parametrize("layer, first", [('type: "BatchNorm" batch_norm_param { scale_bias: true }', 3), ('type: "BN" bn_param { slope_filler { value: 1 } }', 0),
                                          ('type: "BN" bn_param { scale_filler { value: 1 } eps: 1e-5 }', 0)])
def test_one_layer_equals_batch_norm_and_scale(layer: str, first: int, device: str) -> None:
    two, one = batch_norm_pair(layer)
    x, dy, scale, shift = image(4, 20, 3, 5), image(4, 20, 3, 5), RNG.uniform(1, 2, 20), image(20)
    for net in (two, one):
        net.blobs["b0"].data[...] = x
        a, b = (net.params["s"] if net is two else net.params["l"][first:first + 2])
        a.data[...], b.data[...] = scale.reshape(a.shape), shift.reshape(b.shape)
        net.forward()
        net.blobs["y"].diff[...] = dy
        net.backward()
    np.testing.assert_allclose(one.blobs["y"].data, two.blobs["y"].data, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one.blobs["b0"].diff, two.blobs["b0"].diff, rtol=1e-3, atol=1e-5)
    for mine, other in zip(one.params["l"][first:first + 2], two.params["s"]):
        np.testing.assert_allclose(mine.diff.ravel(), other.diff, rtol=1e-4, atol=1e-4)


def test_files_of_three_blobs_load_into_five_and_none_the_other_way() -> None:
    plain, learned = (one_layer_net(f'type: "BatchNorm" top: "y" {more}', (2, 4, 3, 3)) for more in ("", "batch_norm_param { scale_bias: true }"))
    for blob in plain.params["l"]:
        blob.data[...] = 3
    plain.save("three.caffemodel")
    learned.copy_from("three.caffemodel")
    assert [float(b.data.flat[0]) for b in learned.params["l"]] == [3, 3, 3, 1, 0]
    learned.save("five.caffemodel")
    with pytest.raises(WeightsError, match='layer "l" has 5 blobs in the file and 3 in the net'):
        plain.copy_from("five.caffemodel")


def test_pspnets_statistics_move_by_momentum_and_serve_in_test(device: str) -> None:
    net = one_layer_net('type: "BN" top: "y" bn_param { momentum: 0.75 slope_filler { value: 2 } }', (4, 3, 2, 5))
    net.blobs["b0"].data[...] = x = image(4, 3, 2, 5)
    net.forward()
    mean, variance = 0.25 * x.mean((0, 2, 3)), 0.75 + 0.25 * x.var((0, 2, 3))
    np.testing.assert_allclose(net.params["l"][2].data.ravel(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.params["l"][3].data.ravel(), variance, rtol=1e-4)
    test = one_layer_net('type: "BN" top: "y" bn_param { slope_filler { value: 2 } }', (4, 3, 2, 5), phase=pb.TEST)
    test.share_with(net)
    test.blobs["b0"].data[...] = x
    test.forward()
    m, v = mean[:, None, None], variance[:, None, None]
    np.testing.assert_allclose(test.blobs["y"].data, 2 * (x - m) / np.sqrt(v + 1e-5), rtol=1e-4, atol=1e-5)


def test_the_two_meanings_of_bn_are_not_mixed() -> None:
    with pytest.raises(NetError, match="mixes the parameters of PSPNet's BN with those of SegNet's"):
        one_layer_net('type: "BN" top: "y" bn_param { slope_filler { value: 1 } bn_mode: INFERENCE }', (2, 3, 4, 4))


# ------------------------------------------------------------------------------------------------- separable convolution

@pytest.mark.parametrize("channels, outputs, multiplier, more", [(4, 6, 1, "pad: 1"), (32, 48, 1, "pad: 1 stride: 2"), (6, 5, 3, ""), (16, 16, 1, "pad: 2 dilation: 2")])
@pytest.mark.parametrize("relu", [False, True])
def test_a_separable_convolution_is_its_two_parts(channels: int, outputs: int, multiplier: int, more: str, relu: bool, device: str) -> None:
    shape = (2, channels, 9, 8)
    one = one_layer_net(f'type: "SeparableConvolution" top: "y" separable_convolution_param {{ num_output: {outputs} kernel_size: 3 depth_multiplier: {multiplier} {more} activation: {"RELU" if relu else "NONE"} weight_filler {{ type: "msra" }} }}', shape)
    text = f"""force_backward: true layer {{ name: "in" type: "Input" top: "b0" input_param {{ shape {{ dim: 2 dim: {channels} dim: 9 dim: 8 }} }} }}
        layer {{ name: "dw" type: "Convolution" bottom: "b0" top: "m" convolution_param {{ num_output: {channels * multiplier} group: {channels} kernel_size: 3 {more} bias_term: false }} }}
        {'layer { name: "r" type: "ReLU" bottom: "m" top: "m" }' if relu else ''}
        layer {{ name: "pw" type: "Convolution" bottom: "m" top: "y" convolution_param {{ num_output: {outputs} kernel_size: 1 }} }}"""
    two = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)
    assert [b.shape for b in one.params["l"]] == [(channels * multiplier, 1, 3, 3), (outputs, channels * multiplier, 1, 1), (outputs,)]
    theirs = [*two.params["dw"], *two.params["pw"]]
    x, dy = image(*shape), image(*one.blobs["y"].shape)
    one.params["l"][2].data[...] = image(outputs)
    for mine, other in zip(one.params["l"], theirs):
        other.data[...] = mine.data
    for net in (one, two):
        net.blobs["b0"].data[...] = x
        net.forward()
        net.blobs["y"].diff[...] = dy
        net.backward()
    np.testing.assert_allclose(one.blobs["y"].data, two.blobs["y"].data, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.blobs["b0"].diff, two.blobs["b0"].diff, rtol=1e-5, atol=1e-5)
    for mine, other in zip(one.params["l"], theirs):
        np.testing.assert_allclose(mine.diff, other.diff, rtol=1e-5, atol=1e-4)


def test_a_separable_convolution_learns_and_is_kept(device: str) -> None:
    text = """layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 dim: 5 dim: 6 dim: 6 } } }
              layer { name: "sep" type: "SeparableConvolution" bottom: "x" top: "y" separable_convolution_param { num_output: 5 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
              layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }"""
    solver = brew.get_solver(pb.SolverParameter(net_param=parse(text, pb.NetParameter()), base_lr=0.001, momentum=0.9, lr_policy="fixed", random_seed=1))
    solver.net.blobs["x"].data[...], solver.net.blobs["t"].data[...] = image(4, 3, 6, 6), image(4, 5, 6, 6)
    solver.step(1)
    first = solver.losses[-1]
    solver.step(40)
    assert solver.losses[-1] < 0.9 * first
    solver.net.save("sep.caffemodel")
    again = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN, weights="sep.caffemodel")
    for mine, other in zip(again.params["sep"], solver.net.params["sep"]):
        np.testing.assert_array_equal(mine.data, other.data)


# ------------------------------------------------------------------------------------------------------ stochastic depth

def test_branches_survive_as_often_as_they_should(device: str) -> None:
    net = one_layer_net('type: "StochasticDepth" top: "y" stochastic_depth_param { survival: 0.5 block: 2 blocks: 5 per_item: true }', (400, 3))
    net.blobs["b0"].data[...] = 1
    kept = []
    for _ in range(10):
        net.forward()
        y = net.blobs["y"].data
        assert set(np.unique(y)) <= {0, 1} and (y == y[:, :1]).all()
        kept.append(y[:, 0].copy())
    assert abs(np.mean(kept) - 0.8) < 0.02 and not (kept[0] == kept[1]).all()
    whole = one_layer_net('type: "StochasticDepth" top: "y" stochastic_depth_param { survival: 0.5 }', (4, 3))
    whole.blobs["b0"].data[...] = 1
    found = set()
    for _ in range(20):
        whole.forward()
        found |= set(np.unique(whole.blobs["y"].data))
        assert np.ptp(whole.blobs["y"].data) == 0
    assert found == {0, 1}
    x = image(4, 3)
    np.testing.assert_allclose(forward('type: "StochasticDepth" stochastic_depth_param { survival: 0.5 block: 2 blocks: 5 }', x, phase=pb.TEST), 0.8 * x, rtol=1e-6)


def test_shared_names_share_biases_too() -> None:
    """A layer that keeps a blob of its own would go on with it when the net replaces it by another layer's."""
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
              %s"""
    for kind, count, more in (("Scale", 2, "scale_param { bias_term: true }"), ("BN", 4, "bn_param { slope_filler { value: 1 } }")):
        params = " ".join(f'param {{ name: "p{i}" }}' for i in range(count))
        layers = "".join(f'layer {{ name: "{n}" type: "{kind}" bottom: "x" top: "{n}" {params} {more} }}\n' for n in "ab")
        net = brew.Net(parse(text % layers, pb.NetParameter()), brew.TEST)
        net.blobs["x"].data[...] = image(2, 3, 4, 4)
        net.params["a"][1].data[...] = 5
        net.forward()
        np.testing.assert_array_equal(net.blobs["a"].data, net.blobs["b"].data)
