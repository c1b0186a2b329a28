"""pycaffe's nets keep every value, and a backward pass from the middle runs nothing but itself."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
import brew.pycaffe as caffe

# Deep dream in small: the last layers do not fit a smaller image, and are not run; ReLU rewrites conv in place.
NET = """force_backward: true
input: "data" input_shape { dim: 1 dim: 3 dim: 40 dim: 40 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" batch_norm_param { use_global_stats: false } }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool" pooling_param { pool: AVE kernel_size: 38 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
MAKERS: dict[str, Any] = {
    "Net": lambda: caffe.Net("net.prototxt", caffe.TEST, weights="net.caffemodel"),
    "Classifier": lambda: caffe.Classifier("net.prototxt", "net.caffemodel"),
    "Detector": lambda: caffe.Detector("net.prototxt", "net.caffemodel"),
    "a solver's net": lambda: caffe.get_solver("solver.prototxt").net,
    "a solver's test net": lambda: caffe.get_solver("solver.prototxt").test_nets[0],
    "brew.Net": lambda: brew.Net("net.prototxt", brew.TEST, weights="net.caffemodel"),
}


@pytest.fixture(autouse=True)
def files(working_directory: Path) -> None:
    (working_directory / "net.prototxt").write_text(NET)
    (working_directory / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 1 test_interval: 10 random_seed: 1 weights: "net.caffemodel"')
    caffe.Net("net.prototxt", caffe.TRAIN, seed=3).save("net.caffemodel")


@pytest.mark.parametrize("maker", [name for name in MAKERS if name != "brew.Net"])
def test_all_values_are_there_after_a_run(maker: str, device: str) -> None:
    net = MAKERS[maker]()
    net.blobs["data"].data[...] = 1
    net.forward()
    assert net.keep_values and not any(blob.value.store.is_given_up for blob in net.blobs.values())


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", [40, 20])
@pytest.mark.parametrize("end", ["conv", "relu", "bn"])
def test_backward_from_the_middle_leaves_values_alone_and_runs_no_later_layer(maker: str, size: int, end: str, device: str) -> None:
    found = []
    for make in (MAKERS[maker], MAKERS["Net"]):
        net = make()
        net.blobs["data"].reshape(1, 3, size, size)
        net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal((1, 3, size, size))
        net.forward(end=end)
        blob = net.blobs["bn" if end == "bn" else "conv"]
        before = blob.data.copy()
        blob.diff[...] = before
        net.backward(start=end)
        assert np.array_equal(blob.data, before)
        found.append(net.blobs["data"].diff.copy())
    assert found[0].any() and np.allclose(*found, rtol=1e-4, atol=1e-6)
