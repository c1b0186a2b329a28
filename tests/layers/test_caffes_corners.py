"""Layers at the corners where Caffe does something one would not guess, and where brew does something else on purpose."""
from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from brew import Net
from brew.engine.errors import DataError, NetError
from brew.proto import from_array, parse, pb
from brew.tools.gradient_check import check_gradient, one_layer_net

RNG = np.random.default_rng(0)


def test_of_equal_values_argmax_takes_the_later_place(device: str) -> None:
    net = one_layer_net('type: "ArgMax" top: "y" argmax_param { top_k: 3 out_max_val: true }', (1, 5))
    assert net.forward(b0=np.array([[1, 7, 3, 7, 2]]))["y"].tolist() == [[[3, 1, 2], [7, 7, 3]]]


def test_argmax_along_an_axis_keeps_the_others(device: str) -> None:
    x = RNG.standard_normal((2, 4, 3)).astype(np.float32)
    net = one_layer_net('type: "ArgMax" top: "y" argmax_param { axis: 1 top_k: 2 }', x.shape)
    np.testing.assert_array_equal(net.forward(b0=x)["y"], np.argsort(-x, 1)[:, :2])


def test_deconvolution_is_the_gradient_of_convolution(device: str) -> None:
    params = "kernel_size: 3 stride: 2 pad: 1 group: 2 bias_term: false"
    conv = one_layer_net(f'type: "Convolution" top: "y" convolution_param {{ num_output: 6 {params} }}', (2, 4, 7, 9))
    deconv = one_layer_net(f'type: "Deconvolution" top: "y" convolution_param {{ num_output: 4 {params} }}', (2, 6, 4, 5))
    w = RNG.standard_normal(conv.params["l"][0].shape).astype(np.float32)
    for net in (conv, deconv):
        assert net.params["l"][0].shape == w.shape
        net.params["l"][0].data[...] = w
    dy = RNG.standard_normal((2, 6, 4, 5)).astype(np.float32)
    conv.forward(b0=np.zeros((2, 4, 7, 9)))
    np.testing.assert_allclose(deconv.forward(b0=dy)["y"], conv.backward(y=dy)["b0"], rtol=1e-4, atol=1e-4)


def test_bilinear_deconvolution_of_a_constant_is_that_constant(device: str) -> None:
    net = one_layer_net('type: "Deconvolution" top: "y" convolution_param { num_output: 3 group: 3 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" } }', (1, 3, 5, 5))
    y = net.forward(b0=np.full((1, 3, 5, 5), 2))["y"]
    assert y.shape == (1, 3, 10, 10)
    np.testing.assert_allclose(y[:, :, 1:-1, 1:-1], 2, rtol=1e-5)


def test_a_filter_that_keeps_nothing_gives_empty_tops_and_no_gradient(device: str) -> None:
    net = one_layer_net('type: "Filter" top: "y"', (3, 2), (3,))
    assert net.forward(b0=np.ones((3, 2)), b1=np.zeros(3))["y"].shape == (0, 2)
    assert (net.backward()["b0"] == 0).all()


def test_rows_that_are_not_there_are_an_error(device: str) -> None:
    net = one_layer_net('type: "Embed" top: "y" embed_param { input_dim: 4 num_output: 2 }', (3,))
    with pytest.raises(DataError, match="a row number must lie between 0 and 3, found 4"):
        net.forward(b0=np.array([0, 4, 1]))


def test_a_parameter_layer_learns(device: str) -> None:
    net = Net(parse('''layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 } } }
        layer { name: "t" type: "DummyData" top: "t" dummy_data_param { shape { dim: 3 } data_filler { value: 1 } } }
        layer { name: "l" type: "EuclideanLoss" bottom: "p" bottom: "t" top: "loss" }''', pb.NetParameter()), pb.TRAIN)
    net.params["p"][0].data[...] = [0, 1, 3]
    net.forward()
    net.clear_param_diffs()
    net.backward()
    np.testing.assert_allclose(net.params["p"][0].diff, np.array([-1, 0, 2]) / 3, rtol=1e-6)


def test_hdf5_output_appends(device: str) -> None:
    net = one_layer_net('type: "HDF5Output" hdf5_output_param { file_name: "out.h5" }', (2, 3), (2,))
    rows = RNG.standard_normal((6, 3)).astype(np.float32)
    for k in range(3):
        net.forward(b0=rows[2 * k:2 * k + 2], b1=np.array([2 * k, 2 * k + 1]))
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["data"][...], rows)
        assert file["label"][...].tolist() == list(range(6))
    net.blobs["b0"].reshape(2, 1)
    message = r'^out.h5: its dataset "data" has rows of shape \(3,\); layer "l" now has \(1,\)'
    with pytest.raises(DataError, match=message):
        net.forward()


def test_the_infogain_matrix_may_come_from_a_file(device: str) -> None:
    matrix = RNG.random((4, 4), np.float32)
    Path("h.binaryproto").write_bytes(from_array(matrix[None, None]).SerializeToString())
    net = one_layer_net('type: "InfogainLoss" top: "y" infogain_loss_param { source: "h.binaryproto" }', (3, 4), (3,))
    x, labels = RNG.standard_normal((3, 4)), np.array([0, 3, 2])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert net.forward(b0=x, b1=labels)["y"] == pytest.approx(-(matrix[labels] * np.log(p)).sum() / 3, rel=1e-5)


def test_multinomial_loss_is_the_log_of_probabilities(device: str) -> None:
    net = one_layer_net('type: "MultinomialLogisticLoss" top: "y"', (3, 4), (3,))
    p, labels = (RNG.dirichlet(np.ones(4), 3) + 0.25) / 2, np.array([1, 0, 3])      # far enough from 0 for the step
    assert net.forward(b0=p, b1=labels)["y"] == pytest.approx(-np.log(p[range(3), labels]).mean(), rel=1e-5)
    check_gradient(net, skip=(1,), step=1e-3, tolerance=1e-2)


def test_a_threshold_has_no_gradient(device: str) -> None:
    net = one_layer_net('type: "Threshold" top: "y" threshold_param { threshold: 0.5 }', (4,))
    assert net.forward(b0=np.array([0, 0.5, 0.6, -1]))["y"].tolist() == [0, 0, 1, 0]
    net.backward()                                        # force_backward leaves it out


@pytest.mark.parametrize("layer, shapes, message", [
    ('type: "Slice" top: "a" top: "b"', [(2, 5)], "2 tops cannot share axis 1 of 5 equally: give slice_points"),
    ('type: "Slice" top: "a" top: "b" slice_param { slice_point: 5 }', [(2, 5)], "slice_points must rise, between 0 and 5; found [5]"),
    ('type: "Crop" top: "y" crop_param { offset: 3 }', [(1, 1, 5, 5), (1, 1, 3, 3)], "(1, 1, 3, 3) from (0, 0, 3, 3) on goes beyond the bottom's (1, 1, 5, 5)"),
    ('type: "Tile" top: "y"', [(2, 2)], "tiles must be given, and be more than 0; found 0"), ('type: "ArgMax" top: "y" argmax_param { top_k: 9 }', [(2, 4)], "top_k must lie between 1 and 4, found 9"),
    ('type: "Clip" top: "y"', [(2,)], "min and max must be given"), ('type: "Exp" top: "y" exp_param { base: -2 }', [(2,)], "base must be more than 0, or -1 for e; found -2"),
    ('type: "ReLU" top: "b0" relu_param { negative_slope: -1 }', [(2,)], "in place, negative_slope must not be negative"), ('type: "PReLU" top: "y"', [(2,)], "needs a channel axis"),
    ('type: "Filter" top: "y" top: "z"', [(3, 2), (3,)], "makes one top for each bottom but the selector: 1, found 2"),
    ('type: "Deconvolution" top: "y" convolution_param { num_output: 1 kernel_size: 2 pad: 3 }', [(1, 1, 2, 2)], "pad (3, 3) leaves nothing of the result")])
def test_parameters_that_make_no_sense(layer: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError) as e:
        one_layer_net(layer, *shapes)
    assert message in str(e.value)
