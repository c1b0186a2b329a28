"""Net surgery: the changed net computes what it should, and what cannot be done is said."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import parse, pb, read_net
from brew.tools.cli import main
from brew.tools.prune import prune
from brew.tools.surgery import Model, average, cast, drop, fold, rename, transplant

MODELS = Path(__file__).resolve().parents[2] / "models"


def random_model(name: str) -> Model:
    """A zoo net's deploy form with random weights; running variances are positive."""
    net = brew.Net(MODELS / name / "deploy.prototxt", brew.TEST)
    rng = np.random.default_rng(0)
    weights = {}
    for layer, blobs in net.params.items():
        weights[layer] = [rng.standard_normal(b.shape).astype(np.float32) / np.float32(np.sqrt(max(b.count // b.shape[0], 4))) for b in blobs]
        if net.layer_dict[layer].type == "BatchNorm":
            weights[layer] = [weights[layer][0], np.abs(weights[layer][1]) + 1, np.array([2], np.float32)]
    return Model(MODELS / name / "deploy.prototxt", weights)


def small(text: str, **weights: list[np.ndarray]) -> Model:
    return Model(parse('layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }' + text, pb.NetParameter()), weights)


def answer(model: Model, shape: tuple[int, ...] | None = None) -> np.ndarray:
    net = model.build()
    if shape:
        net.blobs["data"].reshape(*shape)
    x = np.random.default_rng(1).standard_normal(net.blobs["data"].shape).astype(np.float32)
    return net.forward(data=x)[net.outputs[0]].copy()


def close(a: np.ndarray, b: np.ndarray, limit: float = 1e-5) -> None:
    assert a.shape == b.shape and np.abs(a - b).max() <= limit * np.abs(b).max()


def test_a_cast_net_slides_the_classifier() -> None:
    """LeNet's windows of 28 x 28 pixels lie 4 pixels apart, as its two poolings make them."""
    model = random_model("lenet")
    drop(model, ["prob"])                                    # scores show more than saturated probabilities
    classifier = model.build()
    cast(model, {"ip1": "ip1-conv", "ip2": "ip2-conv"})
    net = model.build()
    image = np.random.default_rng(2).standard_normal((1, 1, 40, 44)).astype(np.float32)
    net.blobs["data"].reshape(*image.shape)
    found = net.forward(data=image)["ip2"]
    assert found.shape == (1, 10, 4, 5)
    classifier.blobs["data"].reshape(1, 1, 28, 28)
    for row in range(4):
        for column in range(5):
            one = classifier.forward(data=image[:, :, 4 * row:4 * row + 28, 4 * column:4 * column + 28])["ip2"]
            close(found[:, :, row, column], one)


def test_cast_of_a_transposed_matrix_and_of_what_cannot_be() -> None:
    text = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 transpose: true bias_term: false } }'
    model = small(text, ip=[np.random.default_rng(0).standard_normal((108, 4)).astype(np.float32)])
    before = answer(model)
    cast(model, {"ip": "ip"})
    close(answer(model)[:, :, 0, 0], before)
    two = small(text + 'layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2" inner_product_param { num_output: 4 } }')
    for names, message in (({"ip2": "ip2"}, "cast the InnerProducts before it"), ({"data": "data"}, "is not an InnerProduct"), ({"ipp": "iq"}, 'did you mean "ip')):
        with pytest.raises(brew.BrewError, match=message):
            cast(two, names)


@pytest.mark.parametrize("name", ["mobilenet", "resnet50"])
def test_a_folded_net_computes_the_same(name: str) -> None:
    model = random_model(name)
    before = answer(model)
    gone = fold(model)
    assert model.net and not {"BatchNorm", "Scale"} & {layer.type for layer in model.net.layer} and len(gone) > 50
    close(answer(model), before, 1e-3)                       # 50 layers deep; BatchNorm divides by what random numbers leave


def test_fold_leaves_what_others_read() -> None:
    conv = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 1 } }'
    scale = 'layer { name: "s" type: "Scale" bottom: "c" top: "s" } layer { name: "r" type: "ReLU" bottom: "c" top: "r" } '
    model = small(conv + scale, c=[np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)], s=[np.ones(2, np.float32)])
    assert fold(model) == []


def reading_nothing(model: Model, readers: dict[str, np.ndarray]) -> Model:
    """The model with the weights at 0 with which layers read these channels."""
    copy = Model(model.net, {name: [a.copy() for a in arrays] for name, arrays in model.weights.items()})
    for layer, channels in readers.items():
        copy.weights[layer][0][:, channels] = 0
    return copy


def test_pruned_fire_modules_compute_the_same_as_with_those_channels_unread() -> None:
    model = random_model("squeezenet")
    whole = Model(model.net, {name: [a.copy() for a in arrays] for name, arrays in model.weights.items()})
    kept = prune(model, {"fire2/squeeze1x1": 0.25, "fire2/expand1x1": 0.5})
    gone = {name: np.setdiff1d(np.arange(len(whole.weights[name][0])), stay) for name, stay in kept.items()}
    assert {name: len(g) for name, g in gone.items()} == {"fire2/squeeze1x1": 4, "fire2/expand1x1": 32}
    sums = np.abs(whole.weights["fire2/expand1x1"][0]).sum((1, 2, 3))
    assert sums[gone["fire2/expand1x1"]].max() <= sums[kept["fire2/expand1x1"]].min()
    squeeze, expand = gone["fire2/squeeze1x1"], gone["fire2/expand1x1"]
    expected = answer(reading_nothing(whole, {"fire2/expand1x1": squeeze, "fire2/expand3x3": squeeze, "fire3/squeeze1x1": expand}))
    close(answer(model), expected)
    assert model.weights["fire3/squeeze1x1"][0].shape == (16, 96, 1, 1)


def test_pruning_through_batch_norm_and_depthwise_layers() -> None:
    model = random_model("mobilenet")
    whole = Model(model.net, {name: [a.copy() for a in arrays] for name, arrays in model.weights.items()})
    kept = prune(model, {"conv1": 0.5})["conv1"]
    gone = np.setdiff1d(np.arange(32), kept)
    close(answer(model), answer(reading_nothing(whole, {"conv2/sep": gone})), 1e-4)
    assert model.net and next(layer for layer in model.net.layer if layer.name == "conv2/dw").convolution_param.group == 16
    assert [a.shape for a in model.weights["conv1/bn"]] == [(16,), (16,), (1,)]


def test_pruning_before_an_inner_product_and_in_both_phases() -> None:
    model = Model(MODELS / "lenet" / "deploy.prototxt", random_model("lenet").weights)
    whole = Model(model.net, {name: [a.copy() for a in arrays] for name, arrays in model.weights.items()})
    kept = prune(model, {"conv2": 0.3, "ip1": 0.9})
    columns = np.concatenate([np.arange(16) + 16 * c for c in np.setdiff1d(np.arange(50), kept["conv2"])])
    close(answer(model), answer(reading_nothing(whole, {"ip1": columns, "ip2": np.setdiff1d(np.arange(500), kept["ip1"])})))


def test_a_scale_of_other_axes_is_not_taken_for_one_of_channels() -> None:
    """Six columns and six channels: the scale's six numbers are the columns'."""
    conv = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 6 kernel_size: 1 } }'
    scale = 'layer { name: "s" type: "Scale" bottom: "c" top: "s" scale_param { axis: 3 } }'
    with pytest.raises(brew.BrewError, match='layer "s".*none can leave alone'):
        prune(small(conv + scale, c=[np.ones((6, 3, 1, 1), np.float32), np.ones(6, np.float32)], s=[np.ones(6, np.float32)]), {"c": 0.5})


def test_what_cannot_be_pruned() -> None:
    conv = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 3 kernel_size: 1 } }'
    weights = {"c": [np.ones((3, 3, 1, 1), np.float32), np.ones(3, np.float32)]}
    sum_ = 'layer { name: "sum" type: "Eltwise" bottom: "c" bottom: "data" top: "sum" }'
    for text, parts, message in ((sum_, {"c": 0.5}, "not the same channels"), ('layer { name: "p" type: "Softmax" bottom: "c" top: "p" }', {"c": 0.5}, "none can leave alone"),
                                 ("", {"c": 1.0}, "less than 1"), ("", {"data": 0.5}, "no filters")):
        with pytest.raises(brew.BrewError, match=message):
            prune(small(conv + text, **weights), parts)


def test_drop_goes_around_a_layer() -> None:
    text = ('layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { shift: 1 } } layer { name: "b" type: "Power" bottom: "a" top: "b" power_param { scale: 3 } }'
            'layer { name: "r" type: "ReLU" bottom: "b" top: "b" } layer { name: "c" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }')
    model = small(text)
    drop(model, ["b"])                                       # the ReLU no longer works in place: "a" is read besides
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(answer(model), x + 1 + np.maximum(x + 1, 0), rtol=1e-6)
    drop(model, ["r"])
    np.testing.assert_allclose(answer(model), 2 * (x + 1), rtol=1e-6)
    joined = small(text + 'layer { name: "d" type: "Power" bottom: "c" top: "d" }')
    with pytest.raises(brew.BrewError, match='layer "c".*from 2 bottoms; layer "d" still reads it'):
        drop(joined, ["c"])


def test_transplant_by_name_and_by_list() -> None:
    lenet, other = random_model("lenet"), random_model("lenet")
    other.weights = {name: [a + 1 for a in arrays] for name, arrays in other.weights.items()}
    other.weights["ip2"] = [np.zeros((7, 500), np.float32), np.zeros(7, np.float32)]
    assert transplant(lenet, other) == ["conv1", "conv2", "ip1"] and (lenet.weights["conv1"][0] == other.weights["conv1"][0]).all()
    square = other.weights["ip1"][0].reshape(500, 50, 4, 4)
    cast(other, {"ip1": "ip1-conv"})
    assert transplant(lenet, other, {"ip1": "ip1-conv"}) == ["ip1"] and (lenet.weights["ip1"][0].ravel() == square.ravel()).all()
    with pytest.raises(brew.BrewError, match=r"\(7, 500\)"):
        transplant(lenet, other, {"ip2": "ip2"})
    with pytest.raises(brew.BrewError, match='did you mean "conv1"'):
        transplant(lenet, other, {"conv1": "cnov1"})


def test_average_of_weights_and_of_running_statistics() -> None:
    def model(value: float, factor: float) -> Model:
        return Model(None, {"ip": [np.full((2, 3), value, np.float32)], "bn": [np.full(2, value * factor, np.float32)] * 2 + [np.array([factor], np.float32)]})
    mean = average([model(1, 10), model(4, 1000)], [2, 1])
    np.testing.assert_allclose(mean.weights["ip"][0], 2)
    np.testing.assert_allclose(mean.weights["bn"][0] / mean.weights["bn"][2], 2)
    whole = [Model(None, {"bn": [np.full(2, v * 10, np.float32)] * 2 + [np.array([10], np.float32)] + [np.full(2, v, np.float32)] * 2}) for v in (1, 3)]
    np.testing.assert_allclose([a.ravel()[0] for a in average(whole).weights["bn"]], [2, 2, 1, 2, 2])       # with a scale and a shift of its own
    with pytest.raises(brew.BrewError, match="has the shapes"):
        average([model(1, 1), Model(None, {"ip": [np.zeros((2, 4), np.float32)]})])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy = MODELS / "lenet" / "deploy.prototxt"
    random_model("lenet").save(None, "w.caffemodel")
    assert main(["surgery", "cast", "ip1=ip1-conv", "ip2", "-model", str(deploy), "-weights", "w.caffemodel", "-out_model", "conv.prototxt", "-out_weights", "conv.caffemodel"]) == 0
    net = brew.Net("conv.prototxt", brew.TEST, weights="conv.caffemodel")
    assert net.params["ip1-conv"][0].shape == (500, 50, 4, 4) and {layer.type for layer in net.layers} >= {"Convolution"}
    assert main(["surgery", "prune", "conv1=0.5", "-model", str(deploy), "-weights", "w.caffemodel", "-out_model", "p.prototxt", "-out_weights", "p.caffemodel"]) == 0
    assert "conv1: 10 channels stay" in capsys.readouterr().out and read_net("p.prototxt").layer[1].convolution_param.num_output == 10
    assert main(["surgery", "rename", "ip2=scores", "-weights", "w.caffemodel", "-out_weights", "r.caffemodel"]) == 0
    assert main(["surgery", "transplant", "ip2=scores", "-weights", "w.caffemodel", "-donor", "r.caffemodel", "-out_weights", "t.caffemodel"]) == 0
    assert main(["surgery", "average", "-weights", "w.caffemodel,t.caffemodel", "-shares", "1,3", "-out_weights", "a.caffemodel"]) == 0
    a, w = Model(None, "a.caffemodel"), Model(None, "w.caffemodel")
    assert list(a.weights) == list(w.weights) and all((x == y).all() for name in w.weights for x, y in zip(a.weights[name], w.weights[name]))
    assert main(["surgery", "drop", "prob", "-model", str(deploy), "-weights", "w.caffemodel", "-out_model", "d.prototxt", "-out_weights", "d.caffemodel"]) == 0
    assert read_net("d.prototxt").layer[-1].name == "ip2"
    capsys.readouterr()
    for words, message in ((["rename", "ip2=conv1"], 'two layers "conv1"'), (["prune", "conv1", "-out_model", "x.prototxt"], "LAYER=... is needed"),
                           (["prune", "conv1=x", "-out_model", "x.prototxt"], "numbers are needed"),
                           (["cast", "ip1"], "-out_model says where"), (["cast", "ip1", "-out_model", "x.prototxt"], "needs the net's prototxt"), (["drop"], "needs the names"), (["transplant"], "needs -donor")):
        assert main(["surgery", *words, "-weights", "w.caffemodel", "-out_weights", "x.caffemodel"]) == 1
        assert message in capsys.readouterr().err
    assert not Path("x.caffemodel").exists()


def test_rename_tells_of_unknown_layers() -> None:
    model = random_model("lenet")
    with pytest.raises(brew.BrewError, match='there is no layer "ip3"'):
        rename(model, {"ip3": "ip4"})
    rename(model, {"ip1": "ip2", "ip2": "ip1"})
    assert model.weights["ip1"][0].shape == (10, 500)
