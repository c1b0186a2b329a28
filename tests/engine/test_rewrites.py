"""Layers in place behind layers whose backward pass needs what they overwrite: the gradients are those of the net in which
nothing is in place."""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import brew
from brew.engine import plan
from brew.engine.errors import NetError
from brew.proto import parse, pb, read_net
from brew.tools.check import check_net_file


def gradient_cases() -> ModuleType:
    """tests/layers/test_gradients.py, for its table of layers."""
    spec = importlib.util.spec_from_file_location("gradient_cases", Path(__file__).parents[1] / "layers" / "test_gradients.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRADIENTS = gradient_cases()
CASES = [case for case in GRADIENTS.CASES if '"Split"' not in case[0]]          # whose tops may not be rewritten
CASES += [('type: "SoftmaxWithLoss" top: "y" top: "prob"', [(3, 5, 2), (3, 2)], (1,)), ('type: "InfogainLoss" top: "y" top: "prob"', [(3, 5), (3,), (5, 5)], (1, 2))]
REWRITERS = {
    "ReLU": 'type: "ReLU" relu_param { negative_slope: 0.2 }', "Sigmoid": 'type: "Sigmoid"', "TanH": 'type: "TanH"', "ELU": 'type: "ELU"', "Swish": 'type: "Swish"',
    "PReLU": 'type: "PReLU"', "BNLL": 'type: "BNLL"', "ReLU6": 'type: "ReLU6"', "Exp": 'type: "Exp" exp_param { scale: 0.5 }', "Clip": 'type: "Clip" clip_param { min: -0.5 max: 0.5 }',
    "Power": 'type: "Power" power_param { scale: -0.5 shift: 0.25 }', "Scale": 'type: "Scale" scale_param { filler { value: -2 } bias_term: true }', "Bias": 'type: "Bias" bias_param { filler { value: -1 } }',
    "BatchNorm": 'type: "BatchNorm"', "BatchNorm of five": 'type: "BatchNorm" batch_norm_param { scale_bias: true }', "BN": 'type: "BN"',
    "Dropout": 'type: "Dropout"', "StochasticDepth": 'type: "StochasticDepth" stochastic_depth_param { per_item: true }', "Softmax": 'type: "Softmax"'}


def text(layers: list[str], shapes: list[tuple[int, ...]], labels: tuple[int, ...], tops: list[str]) -> str:
    """Inputs that a Scale and a Bias make learn, `layers`, and a loss of each of the `tops`."""
    net = ""
    for i, shape in enumerate(shapes):
        net += f'layer {{ name: "in{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in shape)} }} }} }}\n'
        if i not in labels:
            net += (f'layer {{ name: "scale{i}" type: "Scale" bottom: "b{i}" top: "t{i}" scale_param {{ axis: 0 num_axes: 0 filler {{ value: 1.25 }} }} }}\n'
                    f'layer {{ name: "bias{i}" type: "Bias" bottom: "t{i}" top: "s{i}" bias_param {{ axis: 0 num_axes: 0 }} }}\n')
    net += "\n".join(f"layer {{ {layer} }}" for layer in layers)
    return net + "".join(f'\nlayer {{ name: "loss {t}" type: "Reduction" bottom: "{t}" top: "loss {t}" loss_weight: 0.1 reduction_param {{ operation: SUMSQ }} }}' for t in tops)


def gradients(net_text: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], debug: bool = False) -> dict[str, np.ndarray]:
    """The gradients of all parameters after one pass."""
    net = brew.Net(parse(net_text, pb.NetParameter(), "net.prototxt"), brew.TRAIN, seed=1)
    rng = np.random.default_rng(0)
    for i, shape in enumerate(shapes):
        net.blobs[f"b{i}"].data[...] = rng.integers(0, 4, shape) if i in labels else rng.uniform(-1, 1, shape)
    if 'type: "Sampled' in net_text:
        GRADIENTS.fill_active_sets(rng, net.blobs["b1"], net.blobs["b2"])
    net.run_forward(debug=debug)
    net.run_backward(debug=debug)
    return {f"{name}[{k}]": blob.diff.copy() for name, blobs in net.params.items() for k, blob in enumerate(blobs)}


def assert_alike(rewriting: dict[str, np.ndarray], apart: dict[str, np.ndarray]) -> None:
    for name, expected in apart.items():
        np.testing.assert_allclose(rewriting[name], expected, rtol=1e-4, atol=1e-5 * max(1, abs(expected).max()), err_msg=name)


@pytest.mark.parametrize("layer, shapes, labels", CASES, ids=[re.sub(r'top: "y" |"', "", case[0])[:80] for case in CASES])
def test_what_each_layer_needs_survives_a_layer_in_place_behind_it(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    shapes = [shape for shape in shapes]
    bottoms = " ".join(f'bottom: "{"b" if i in labels else "s"}{i}"' for i in range(len(shapes)))
    down = " ".join(f"propagate_down: {str(i not in labels).lower()}" for i in range(len(shapes))) if labels else ""
    layer = layer.replace('top: "b0"', 'top: "s0"')
    tops = re.findall(r'top: "(\w+)"', layer)
    this = f'name: "l" {bottoms} {layer} {down} {"loss_weight: 0 " * len(tops)}'
    rewrite = 'name: "after {0}" type: "Power" bottom: "{0}" top: "{1}" power_param {{ scale: -0.5 shift: 0.25 }}'
    found = [gradients(text([this, *(rewrite.format(t, t + end) for t in tops)], shapes, labels, [t + end for t in tops]), shapes, labels) for end in ("", "2")]
    assert_alike(*found)


@pytest.mark.parametrize("second", REWRITERS)
@pytest.mark.parametrize("first", REWRITERS)
def test_chains_of_three_in_place(first: str, second: str, device: str) -> None:
    """Each pair behind an InnerProduct and before a TanH, all in place; and with each layer run for itself, as debug_info does."""
    shapes: list[tuple[int, ...]] = [(4, 6)]
    head = 'name: "ip" type: "InnerProduct" bottom: "s0" top: "x" inner_product_param { num_output: 5 weight_filler { type: "xavier" } }'
    chain = [f'name: "first" {REWRITERS[first]}', f'name: "second" {REWRITERS[second]}', 'name: "third" type: "TanH"']
    rewriting = text([head, *(f'{c} bottom: "x" top: "x"' for c in chain)], shapes, (), ["x"])
    names = ["x", "x1", "x2", "x3"]
    apart = text([head, *(f'{c} bottom: "{a}" top: "{b}"' for c, a, b in zip(chain, names, names[1:]))], shapes, (), ["x3"])
    expected = gradients(apart, shapes, ())
    assert_alike(gradients(rewriting, shapes, ()), expected)
    assert_alike(gradients(rewriting, shapes, (), debug=True), expected)


IMAGES = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "msra" } } }
%s
layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "ip" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "%s" top: "%s" } layer { name: "scale" type: "Scale" bottom: "%s" top: "%s" scale_param { bias_term: true } }'
CHAINS = {   # (in place, the same with names of their own, the last name)
    "ReLU, BatchNorm": ('layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }',
                        'layer { name: "r" type: "ReLU" bottom: "c" top: "d" } layer { name: "bn" type: "BatchNorm" bottom: "d" top: "e" }', "e"),
    "ReLU, BatchNorm, Scale, ReLU": ('layer { name: "r" type: "ReLU" bottom: "c" top: "c" }' + NORM % (("c",) * 4) + 'layer { name: "r2" type: "ReLU" bottom: "c" top: "c" }',
                                     'layer { name: "r" type: "ReLU" bottom: "c" top: "d" }' + NORM % ("d", "e", "e", "f") + 'layer { name: "r2" type: "ReLU" bottom: "f" top: "g" }', "g"),
    "BatchNorm, Scale, ReLU, BatchNorm": (NORM % (("c",) * 4) + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "bn2" type: "BatchNorm" bottom: "c" top: "c" }',
                                          NORM % ("c", "d", "d", "e") + 'layer { name: "r" type: "ReLU" bottom: "e" top: "f" } layer { name: "bn2" type: "BatchNorm" bottom: "f" top: "g" }', "g"),
    "a view between": ('layer { name: "t" type: "TanH" bottom: "c" top: "c" } layer { name: "f" type: "Flatten" bottom: "c" top: "f" } layer { name: "p" type: "Power" bottom: "f" top: "f" power_param { power: 2 } }',
                       'layer { name: "t" type: "TanH" bottom: "c" top: "d" } layer { name: "f" type: "Flatten" bottom: "d" top: "f" } layer { name: "p" type: "Power" bottom: "f" top: "g" power_param { power: 2 } }', "g"),
    "Pooling": ('layer { name: "n" type: "Pooling" bottom: "c" top: "n" pooling_param { kernel_size: 2 } } layer { name: "t" type: "Sigmoid" bottom: "n" top: "n" }',
                'layer { name: "n" type: "Pooling" bottom: "c" top: "n" pooling_param { kernel_size: 2 } } layer { name: "t" type: "Sigmoid" bottom: "n" top: "t" }', "t"),
    "LRN": ('layer { name: "n" type: "LRN" bottom: "c" top: "n" } layer { name: "t" type: "Sigmoid" bottom: "n" top: "n" }',
            'layer { name: "n" type: "LRN" bottom: "c" top: "n" } layer { name: "t" type: "Sigmoid" bottom: "n" top: "t" }', "t")}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("steps", [1, 3])
def test_images_in_blocked_layouts_and_fused_layers(chain: str, steps: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole trainings, in which memory is reused: the weights agree."""
    monkeypatch.setattr(plan, "SMALL", 0)
    in_place, apart, last = CHAINS[chain]
    weights = []
    for body, end in ((in_place, "n" if chain in ("LRN", "Pooling") else "f" if "view" in chain else "c"), (apart, last)):
        param = pb.SolverParameter(base_lr=0.05, lr_policy="fixed", momentum=0.9, random_seed=1)
        parse(IMAGES % (body, end), param.net_param, "net.prototxt")
        solver = brew.get_solver(param)
        solver.net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((4, 3, 6, 6))
        solver.net.blobs["label"].data[...] = [0, 1, 2, 0]
        solver.step(steps)
        weights.append({f"{name}[{k}]": b.data.copy() for name, blobs in solver.net.params.items() for k, b in enumerate(blobs)})
    assert_alike(*weights)


def test_no_copy_where_signs_suffice() -> None:
    """AlexNet's fc6, relu6 and drop6 are all in place: ReLU needs signs only, which Dropout keeps."""
    body = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "d" type: "Dropout" bottom: "c" top: "c" }'
    assert brew.Net(parse(IMAGES % (body, "c"), pb.NetParameter()), brew.TRAIN).graph.rewrites == ()
    body = body.replace("ReLU", "TanH")
    assert len(brew.Net(parse(IMAGES % (body, "c"), pb.NetParameter()), brew.TRAIN).graph.rewrites) == 1


def test_the_zoo_needs_no_copies() -> None:
    models = Path(brew.layers.__file__).resolve().parents[1] / "models"
    for name in ("alexnet", "googlenet", "resnet50", "vgg16", "inception_v3", "xception", "mobilenet"):
        if (file := models / name / "deploy.prototxt").exists():
            param = read_net(file)
            param.force_backward = True
            net = brew.Net(param, brew.TRAIN, seed=1)
            assert all(net.graph.runs) and net.graph.rewrites == (), name


SHARED = {   # (layers, what the error says)
    "a declared Split": ('layer { name: "split" type: "Split" bottom: "x" top: "a" top: "b" } layer { name: "r" type: "ReLU" bottom: "a" top: "a" } layer { name: "p" type: "Power" bottom: "b" top: "p" }',
                         'layer "r" (type "ReLU"): rewrites in place what layer "p" reads after it as "b"'),
    "a view": ('layer { name: "f" type: "Flatten" bottom: "x" top: "f" } layer { name: "r" type: "ReLU" bottom: "f" top: "f" } layer { name: "p" type: "Power" bottom: "x" top: "p" }',
               'layer "r" (type "ReLU"): rewrites in place what layer "p" reads after it as "x_in_0_split_1"'),
    "a parameter": ('layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } } layer { name: "r" type: "ReLU" bottom: "w" top: "w" }',
                    'layer "r" (type "ReLU"): rewrites in place a blob that shares the memory of a parameter')}


@pytest.mark.parametrize("kind", SHARED)
def test_what_a_later_layer_reads_by_another_name_is_not_overwritten(kind: str) -> None:
    layers, message = SHARED[kind]
    with pytest.raises(NetError) as error:
        brew.Net(parse('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }' + layers, pb.NetParameter(), "net.prototxt"), brew.TEST)
    assert message in str(error.value) and str(error.value).endswith("give the top another name")


def test_views_that_are_read_before_or_made_after_are_right() -> None:
    net = brew.Net(parse("""layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "p" type: "Power" bottom: "x" top: "p" } layer { name: "f" type: "Flatten" bottom: "x" top: "f" } layer { name: "r" type: "ReLU" bottom: "f" top: "f" }
        layer { name: "g" type: "Reshape" bottom: "f" top: "g" reshape_param { shape { dim: 6 } } } layer { name: "q" type: "Power" bottom: "g" top: "q" }""", pb.NetParameter()), brew.TEST)
    net.blobs["x"].data[...] = [[-1, 2, -3], [4, -5, 6]]
    out = net.forward()
    assert out["p"].ravel().tolist() == [-1, 2, -3, 4, -5, 6] and out["q"].tolist() == [0, 2, 0, 4, 0, 6]


def test_brew_check_names_layers_in_place_whose_gradients_are_not_caffes(working_directory: Path) -> None:
    chain = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" } layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" batch_norm_param { scale_bias: true } }'
    (working_directory / "net.prototxt").write_text(IMAGES % (chain, "c"))
    problems, notes = check_net_file("net.prototxt")
    assert problems == [] and len(notes) == 1
    assert notes[0].startswith("net.prototxt:4:") and notes[0].endswith(
        'warning: layer "bn" (type "BatchNorm") overwrites in place what the gradient of layer "r" is computed from\n'
        "  brew keeps a copy; the gradient that Caffe computes here is wrong, so results will differ from Caffe's")
    (working_directory / "fine.prototxt").write_text(IMAGES % (chain.replace("BatchNorm", "Dropout").replace("batch_norm_param { scale_bias: true }", ""), "c"))
    assert check_net_file("fine.prototxt") == ([], [])
    (working_directory / "shared.prototxt").write_text('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }' + SHARED["a view"][0])
    assert "rewrites in place what layer" in "".join(check_net_file("shared.prototxt")[0])
