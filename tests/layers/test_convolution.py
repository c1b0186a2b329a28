"""Convolution against its definition, in shapes that meet every engine and layout."""
from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from brew.kernels import onednn
from brew.tools.gradient_check import one_layer_net


def naive(x: np.ndarray, w: np.ndarray, stride: int, pad: int, dilation: int, groups: int) -> np.ndarray:
    """Sum over kernel elements of shifted images times weights, in float64."""
    spatial = x.shape[2:]
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0)] + [(pad, pad)] * len(spatial))
    kernel = w.shape[2:]
    out = [(s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(spatial, kernel)]
    per_in, per_out = x.shape[1] // groups, w.shape[0] // groups
    y = np.zeros((x.shape[0], w.shape[0], *out))
    for place in product(*map(range, kernel)):
        window = tuple(slice(p * dilation, p * dilation + (o - 1) * stride + 1, stride) for p, o in zip(place, out))
        seen = x[(slice(None), slice(None), *window)]
        for g in range(groups):
            y[:, g * per_out:(g + 1) * per_out] += np.einsum("nc...,oc->no...", seen[:, g * per_in:(g + 1) * per_in],
                                                             w[(slice(g * per_out, (g + 1) * per_out), slice(None), *place)])
    return y


# channels, outputs, spatial, kernel, stride, pad, dilation, groups: padded and whole blocks, few channels, every rank
CASES = [(3, 16, (9, 8), 3, 1, 1, 1, 1), (3, 20, (11, 11), 5, 2, 0, 1, 1), (16, 32, (7, 9), 3, 1, 1, 1, 1), (20, 50, (8, 8), 5, 1, 0, 1, 1),
         (32, 32, (6, 6), 3, 2, 1, 1, 32), (32, 64, (6, 6), 3, 1, 1, 1, 32), (32, 32, (5, 5), 3, 1, 1, 1, 2), (12, 8, (5, 6), 1, 1, 0, 1, 4), (17, 33, (7, 7), 3, 1, 2, 2, 1),
         (1, 4, (10,), 4, 3, 1, 1, 1), (4, 6, (5, 4, 6), 3, 1, 1, 1, 1), (16, 16, (4, 4, 4), 2, 2, 0, 1, 1), (3, 4, (3, 4, 3, 4), 2, 1, 0, 1, 1)]
# channels, outputs, spatial, pad, groups where 3 x 3 kernels run as Winograd's: odd ends, an odd number of blocks, groups
WINOGRAD = [(64, 64, (15, 13), 1, 1), (64, 48, (12, 11), 0, 1), (48, 64, (10, 12), 1, 1), (64, 96, (14, 10), 1, 2)]
CASES += [(c, k, spatial, 3, 1, pad, 1, groups) for c, k, spatial, pad, groups in WINOGRAD]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_definition(case: tuple, device: str) -> None:  # type: ignore[type-arg]
    channels, outputs, spatial, kernel, stride, pad, dilation, groups = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, *spatial)).astype(np.float32)
    net = one_layer_net(f'type: "Convolution" top: "y" convolution_param {{ num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad} '
                        f'dilation: {dilation} group: {groups} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', x.shape)
    w, b = (blob.data.copy() for blob in net.params["l"])
    y = net.forward(b0=x)["y"]
    expected = naive(x, w, stride, pad, dilation, groups) + b.reshape(-1, *[1] * len(spatial))
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
    # Backward is linear: <dy, conv(x, w)> has the gradient dy against x and w.
    dy = rng.standard_normal(y.shape).astype(np.float32)
    net.clear_param_diffs()
    dx = net.backward(y=dy)["b0"].astype(np.float64)
    dw, db = (blob.diff.astype(np.float64) for blob in net.params["l"])
    inner = (dy.astype(np.float64) * naive(x, w, stride, pad, dilation, groups)).sum()
    scale = np.abs(dy).sum() * np.abs(expected).mean()
    assert abs((dx * x).sum() - inner) <= 1e-5 * scale
    assert abs((dw * w).sum() - inner) <= 1e-5 * scale
    np.testing.assert_allclose(db, dy.sum(axis=(0, *range(2, dy.ndim)), dtype=np.float64), rtol=1e-4, atol=1e-4)


def test_gradients_of_two_passes_add_up(device: str) -> None:
    net = one_layer_net('type: "Convolution" top: "y" convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } }', (2, 4, 6, 6))
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    y = net.forward(b0=x)["y"]
    net.clear_param_diffs()
    net.backward(y=np.ones_like(y))
    once = [blob.diff.copy() for blob in net.params["l"]]
    net.backward(y=np.ones_like(y))
    for blob, first in zip(net.params["l"], once):
        np.testing.assert_allclose(blob.diff, 2 * first, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(onednn is None, reason="the portable engine fuses nothing")
@pytest.mark.parametrize("channels, size", [(16, 7), (64, 12)])               # a direct kernel, and Winograd's
def test_fusion_with_relu_changes_nothing(channels: int, size: int) -> None:
    from brew import Net
    from brew.proto import parse, pb
    text = f"""layer {{ name: "d" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: {channels} dim: {size} dim: {size} }} }} }}
              layer {{ name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param {{ num_output: 32 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
              layer {{ name: "r" type: "ReLU" bottom: "y" top: "y" relu_param {{ negative_slope: 0.1 }} }}"""
    net = Net(parse(text, pb.NetParameter()), seed=1)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((2, channels, size, size))
    whole = net.forward()["y"].copy()
    net.forward(end="c")
    apart = net.forward(start="r")["y"]
    assert net.fusions == {1: [2]} and (whole < 0).any()
    np.testing.assert_allclose(whole, apart, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(onednn is None, reason="brew was built without oneDNN")
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd_agrees_with_the_direct_kernels(case: tuple) -> None:  # type: ignore[type-arg]
    channels, outputs, spatial, pad, groups = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, *spatial)).astype(np.float32)
    found = []
    for engine in ("DEFAULT", "ONEDNN", "DEFAULT"):
        net = one_layer_net(f'type: "Convolution" top: "y" convolution_param {{ num_output: {outputs} kernel_size: 3 pad: {pad} group: {groups} engine: {engine} '
                            f'weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }}', x.shape)
        y = net.forward(b0=x)["y"].copy()
        net.clear_param_diffs()
        for _ in range(2):                                   # the second pass adds to the first one's gradients
            dx = net.backward(y=rng.standard_normal(y.shape).astype(np.float32))["b0"].copy()
        if (net.layers[-1].engine.kernel == "winograd") != (engine == "DEFAULT"):
            pytest.skip("this machine's kernels do not have the engine's block of channels")
        found.append([y, dx, *(blob.diff.copy() for blob in net.params["l"])])
        rng = np.random.default_rng(0)
        rng.standard_normal(x.shape)
    for ours, direct, again in zip(*found):
        assert np.abs(ours - direct).max() <= 1e-5 * np.abs(direct).max() and (ours == again).all()
