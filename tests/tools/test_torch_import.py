"""Weights of PyTorch models give the same scores in brew. Needs torch; without it only the names are checked."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import brew
from brew.proto import parse, pb, read_net
from brew.tools.cli import main
from brew.tools.torch_import import RECIPES, ZOO, import_state, import_torchvision, mean_of


@pytest.fixture
def nets() -> ModuleType:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_nets", Path(__file__).parent / "torch_nets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RECIPES)
def test_scores_of_torchvisions_nets(name: str, nets: ModuleType, tmp_path: Path) -> None:
    """With random weights, and statistics such as training leaves; the image is as torch wants it, and as Caffe does."""
    import torch
    torch.manual_seed(0)
    model = nets.NETS[name]().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    imported = import_torchvision(name, {k: v.numpy() for k, v in model.state_dict().items()})
    imported.save("net.prototxt", "net.caffemodel")
    net = brew.Net("net.prototxt", brew.TEST, weights="net.caffemodel")
    size = net.blobs["data"].shape[2]
    rgb = np.random.default_rng(1).uniform(0, 255, (1, 3, size, size)).astype(np.float32)
    recipe = RECIPES[name]
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (recipe.mean, recipe.std))
    with torch.inference_mode():
        expected = torch.softmax(model(torch.from_numpy((rgb / 255 - mean) / std)), 1).numpy()
    found = net.forward(data=rgb[:, ::-1] - np.array(mean_of(name), np.float32)[:, None, None])["prob"].reshape(1, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(expected / expected.mean() - 1).max() > 0.02         # the scores differ, so that agreeing says something


def test_a_classifier_of_other_classes_and_the_command_line(nets: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    torch.manual_seed(0)
    torch.save({"state_dict": {f"module.{k}": v for k, v in nets.ResNet50(7).state_dict().items()}}, "w.pth")
    assert main(["import", "resnet50", "w.pth", "-out_model", "r.prototxt", "-out_weights", "r.caffemodel"]) == 0
    assert "BGR, 0 to 255, less 103.53, 116.28, 123.675" in capsys.readouterr().out
    assert brew.Net("r.prototxt", brew.TEST, weights="r.caffemodel").blobs["prob"].shape == (1, 7)
    Path("bad.pth").write_bytes(b"no pickle")
    for words, message in ((["resnet50", "bad.pth"], "no state dict"), (["resnet51", "w.pth"], 'did you mean "resnet50"'), (["vgg16", "w.pth"], 'no "features.0.weight"'),
                           (["resnet50", "none.pth"], "No such file")):
        assert main(["import", *words, "-out_model", "x.prototxt", "-out_weights", "x.caffemodel"]) == 1
        assert message in capsys.readouterr().err
    assert not Path("x.caffemodel").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_every_layer_of_the_zoo_net_has_a_name(name: str) -> None:
    layers = [layer.name for layer in read_net(ZOO / name / "deploy.prototxt").layer if layer.type in ("Convolution", "InnerProduct", "BatchNorm", "Scale")]
    found = RECIPES[name].names(layers)
    assert set(found) == set(layers) and len(set(found.values())) == sum("/bn" not in layer for layer in layers)


def test_names_that_the_user_gives() -> None:
    net = parse('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }'
                'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 3 } }'
                'layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" } layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }', pb.NetParameter())
    rng = np.random.default_rng(0)
    state = {"a.weight": rng.standard_normal((3, 2, 3, 3)), "a.bias": rng.standard_normal(3), "b.weight": rng.standard_normal(3), "b.bias": rng.standard_normal(3),
             "b.running_mean": rng.standard_normal(3), "b.running_var": rng.uniform(1, 2, 3), "b.num_batches_tracked": np.array(5)}
    names = {"c": "a", "n": "b", "s": "b"}
    built = import_state(net, state, names).build()
    built.blobs["x"].data[...] = 0
    expected = state["b.weight"] * (state["a.bias"] - state["b.running_mean"]) / np.sqrt(state["b.running_var"] + 1e-5) + state["b.bias"]
    np.testing.assert_allclose(built.forward()["c"][0, :, 0, 0], expected, rtol=1e-5)
    for wrong, message in (({**state, "extra.weight": np.zeros(3)}, "belong to no layer: extra.weight"), ({**state, "a.bias": np.zeros(4)}, r"shape \(4,\); \(3,\) is needed"),
                           ({k: v for k, v in state.items() if k != "b.bias"}, 'has no "b.bias"')):
        with pytest.raises(brew.BrewError, match=message):
            import_state(net, wrong, names)
    with pytest.raises(brew.BrewError, match='layer "s".*no module is named'):
        import_state(net, state, {"c": "a", "n": "b"})


def test_without_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("w.pth").write_bytes(b"")
    assert main(["import", "resnet50", "w.pth", "-out_model", "r.prototxt", "-out_weights", "r.caffemodel"]) == 1
    assert "pip install torch" in capsys.readouterr().err
