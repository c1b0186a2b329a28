"""Pooling against its definition, and the corners where Caffe has none."""
from __future__ import annotations

import numpy as np
import pytest

from brew.engine.random import stream
from brew.kernels import cpu
from brew.layers.pooling import pooled
from brew.tools.gradient_check import one_layer_net

GRID = [(h, k, s, p) for h in (5, 6, 7, 8) for k in (2, 3, 5) for s in (1, 2, 3) for p in (0, 1) if p < k and s <= k]


def naive(x: np.ndarray, kernel: int, stride: int, pad: int, kind: str) -> np.ndarray:
    n, c, h, w = x.shape
    out = [pooled(size, kernel, stride, pad, False, pad > 0) for size in (h, w)]
    y = np.zeros((n, c, *out), np.float32)
    for i, j in np.ndindex(*out):
        top, left = i * stride - pad, j * stride - pad
        bottom, right = min(top + kernel, h + pad), min(left + kernel, w + pad)
        size = (bottom - top) * (right - left)
        part = x[:, :, max(top, 0):min(bottom, h), max(left, 0):min(right, w)]
        y[:, :, i, j] = part.max((2, 3)) if kind == "MAX" else part.sum((2, 3)) / size
    return y


@pytest.mark.parametrize("kind", ["MAX", "AVE"])
@pytest.mark.parametrize("channels", [3, 16, 20])
def test_agrees_with_the_definition(kind: str, channels: int, device: str) -> None:
    rng = np.random.default_rng(0)
    for size, kernel, stride, pad in GRID:
        x = rng.standard_normal((2, channels, size, size + 1)).astype(np.float32)
        net = one_layer_net(f'type: "Pooling" top: "y" pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} }}', x.shape)
        np.testing.assert_allclose(net.forward(b0=x)["y"], naive(x, kernel, stride, pad, kind), rtol=1e-5, atol=1e-6, err_msg=f"{size} {kernel} {stride} {pad}")


def test_a_window_without_pixels_gives_caffes_lowest_float_and_no_gradient(device: str) -> None:
    net = one_layer_net('type: "Pooling" top: "y" pooling_param { pool: MAX kernel_size: 2 stride: 3 }', (1, 1, 6, 6))
    y = net.forward(b0=np.arange(36.0).reshape(1, 1, 6, 6))["y"]
    assert y.shape == (1, 1, 3, 3)
    assert y[0, 0, 2, 0] == np.float32(-3.402823466e38)
    gradient = net.backward(y=np.ones_like(y))["b0"]
    assert gradient.sum() == 4                 # the four windows that have pixels


def test_the_mean_of_no_pixels_is_zero(device: str) -> None:
    net = one_layer_net('type: "Pooling" top: "y" pooling_param { pool: AVE kernel_size: 2 stride: 3 }', (1, 1, 6, 6))
    assert net.forward(b0=np.ones((1, 1, 6, 6)))["y"][0, 0, 2].tolist() == [0, 0, 0]


def test_of_equal_values_the_first_wins(device: str) -> None:
    net = one_layer_net('type: "Pooling" top: "y" top: "mask" pooling_param { pool: MAX kernel_size: 2 stride: 2 }', (1, 1, 2, 4))
    out = net.forward(b0=np.array([[[[1, 5, 2, 2], [5, 5, 2, 2]]]]))
    assert out["y"].ravel().tolist() == [5, 2] and out["mask"].ravel().tolist() == [1, 2]


@pytest.mark.parametrize("size, expected", [(32, 16), (16, 8), (8, 4)])
def test_cifar10_quick_rounds_up_as_caffe_does(size: int, expected: int) -> None:
    assert pooled(size, 3, 2, 0) == expected


def test_stochastic_pooling_draws_in_proportion_and_is_the_same_on_all_devices(device: str) -> None:
    x = np.tile(np.array([[1, 0], [3, 4]], np.float32), (200, 200))[None, None]
    net = one_layer_net('type: "Pooling" top: "y" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', x.shape)
    y = net.forward(b0=x)["y"].copy()
    shares = [(y == v).mean() for v in (1, 0, 3, 4)]
    np.testing.assert_allclose(shares, [1 / 8, 0, 3 / 8, 4 / 8], atol=0.01)
    word = np.empty(y.size, np.uint32)
    cpu.random_words(word, 1701, stream("l", 1))
    goal = ((word >> 8) + np.float32(1)) / np.float32(2**24) * 8        # the running sums of a window are 1, 1, 4, 8
    np.testing.assert_array_equal(y.ravel(), np.where(goal <= 1, 1, np.where(goal <= 4, 3, 4)))
    gradient = net.backward(y=np.ones_like(y))["b0"]
    assert gradient.sum() == y.size and (gradient * x).sum() == y.sum()
    assert (net.forward(b0=x)["y"] != y).any()


def test_stochastic_pooling_tests_with_the_weighted_mean(device: str) -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((2, 3, 6, 6))).astype(np.float32)
    x[0, 0, :2, :2] = 0
    net = one_layer_net('type: "Pooling" top: "y" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', x.shape, phase=1)
    windows = x.reshape(2, 3, 3, 2, 3, 2)
    sums = windows.sum((3, 5))
    expected = np.divide((windows**2).sum((3, 5)), sums, out=np.zeros_like(sums), where=sums > 0)
    np.testing.assert_allclose(net.forward(b0=x)["y"], expected, rtol=1e-5)
