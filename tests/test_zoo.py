"""The nets of models/ give the same answers fused and layer by layer, in blocked and in plain layouts, on both CPU engines."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine import context as device
from brew.engine.passes import filter_layers
from brew.proto import pb, read_net

MODELS = Path(__file__).resolve().parents[1] / "models"
NETS = {"lenet": (1, 28), "cifar10_quick": (3, 32), "alexnet": (3, 227), "caffenet": (3, 227), "vgg16": (3, 224), "googlenet": (3, 224), "squeezenet": (3, 227),
        "resnet50": (3, 224), "mobilenet": (3, 224), "xception": (3, 299), "inception_v3": (3, 299)}
# 1e-5 of the norm of each array. Through dozens of BatchNorms, each of which divides by a spread measured on one image, single
# precision does not hold that: one engine on one thread instead of two differs by up to 6.5e-5 (Xception's gradients).
LIMITS = dict.fromkeys(NETS, 1e-5) | dict.fromkeys(("resnet50", "mobilenet", "xception", "inception_v3"), 1e-4)
Answers = dict[str, np.ndarray]


@contextmanager
def engine(name: str) -> Iterator[None]:
    with device.using(device.cpu_device(), name):
        yield


def train_net(name: str, smooth: bool = False) -> brew.Net:
    """The training net on one random image, without its data layers. Smooth: no kinks, at which two sums that differ in the
    last bit may fall on different sides and have different gradients."""
    param = read_net(MODELS / name / "train_val.prototxt")
    param.state.phase = pb.TRAIN
    net = pb.NetParameter(name=name)
    shape = (1, NETS[name][0], NETS[name][1], NETS[name][1])
    data = net.layer.add(name="data", type="Input", top=["data", "label"])
    data.input_param.shape.add(dim=shape)
    data.input_param.shape.add(dim=shape[:1])
    net.layer.extend(layer for layer in filter_layers(param).layer if layer.type != "Data")
    for layer in net.layer if smooth else ():
        if layer.type == "ReLU":
            layer.type = "BNLL"
        layer.pooling_param.pool = pb.PoolingParameter.AVE if layer.type == "Pooling" else layer.pooling_param.pool
    n = brew.Net(net, brew.TRAIN, seed=1)
    rng = np.random.default_rng(0)
    n.blobs["data"].data[...] = rng.standard_normal(shape)
    n.blobs["label"].data[...] = 3
    return n


def train(n: brew.Net) -> Answers:
    """The loss, and all gradients of parameters."""
    answers = {"loss": np.array(n.run_forward())}
    n.run_backward()
    return answers | {f"{p.layer} {p.index}": p.blob.diff.copy() for p in n.learnable}


def assert_close(found: Answers, expected: Answers, limit: float) -> None:
    """Each array to within `limit` of its norm; what is nothing but rounding (biases before a BatchNorm) is left out."""
    large = max(float(np.linalg.norm(v)) for v in expected.values())
    for name, array in expected.items():
        norm = float(np.linalg.norm(array))
        if norm > 1e-6 * large:
            assert np.linalg.norm(found[name] - array) <= limit * norm, name


@pytest.mark.parametrize("name", NETS)
def test_training_fused_and_layer_by_layer(name: str) -> None:
    fused, apart = train_net(name), train_net(name)
    apart.before_forward(lambda i: None)                   # a hook makes every layer run by itself
    apart.before_backward(lambda i: None)
    found = train(fused)
    assert_close(found, train(apart), 1e-5)
    again = train(train_net(name))
    assert all(np.array_equal(found[k], again[k]) for k in found)      # the same bits twice


@pytest.mark.parametrize("name", NETS)
def test_training_on_both_engines(name: str) -> None:
    found = train(train_net(name, smooth=True))
    with engine("caffe"):
        assert_close(train(train_net(name, smooth=True)), found, LIMITS[name])


@pytest.mark.parametrize("name", NETS)
def test_inference_folded_and_layer_by_layer(name: str) -> None:
    source = train_net(name)
    source.run_forward()                                   # gives BatchNorm its statistics

    def deploy() -> brew.Net:
        param = read_net(MODELS / name / "deploy.prototxt")
        param.layer[0].input_param.shape[0].dim[0] = 1
        n = brew.Net(param, brew.TEST)
        n.share_with(source)
        n.blobs["data"].data[...] = source.blobs["data"].data
        return n
    folded, apart = deploy(), deploy()
    apart.before_forward(lambda i: None)
    for n in (folded, apart):
        n.run_forward()
    expected = apart.output_values()
    assert_close(folded.output_values(), expected, LIMITS[name])
    with engine("caffe"):
        plain = deploy()
    plain.run_forward()
    assert_close(plain.output_values(), expected, LIMITS[name])
