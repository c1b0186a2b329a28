"""Branches that send no gradient back: training with them gives the weights of training without them, to the last bit.

Memory is reused for blobs of any size here (plan.SMALL), and what is released is overwritten with NaN at once, so that a
gradient or value read after its release is found whatever the size of the net.
"""
from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import brew
from brew.engine import plan, pool
from brew.engine.context import DEFAULT
from brew.proto import parse, pb


def gradients() -> ModuleType:
    """tests/layers/test_gradients.py, for its table of layers."""
    spec = importlib.util.spec_from_file_location("gradient_cases", Path(__file__).parents[1] / "layers" / "test_gradients.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRADIENTS = gradients()
CASES = [case for case in GRADIENTS.CASES if 'top: "b0"' not in case[0]]          # a branch in place is no branch
NAMES = [re.sub(r'top: "\w+" |"', "", case[0])[:80] for case in CASES]


@pytest.fixture(autouse=True)
def release_everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reuse the memory of the smallest blobs, too, and poison what is released."""
    give = pool.Pool.give

    def poison(self: pool.Pool, array: np.ndarray) -> None:
        array[...] = np.nan
        give(self, array)

    monkeypatch.setattr(plan, "SMALL", 0)
    monkeypatch.setattr(pool.Pool, "give", poison)
    DEFAULT.pool.clear()
    yield
    DEFAULT.pool.clear()


def inputs(shapes: list[tuple[int, ...]], labels: tuple[int, ...]) -> str:
    """Inputs b0, b1, ...; those that are no labels go through a Power, Scale and Bias first, which learn: s0, s1, ..."""
    text = ""
    for i, shape in enumerate(shapes):
        dims = " ".join(f"dim: {d}" for d in shape)
        text += f'layer {{ name: "in{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {dims} }} }} }}\n'
        if i not in labels:
            text += (f'layer {{ name: "scale{i}" type: "Scale" bottom: "b{i}" top: "t{i}" scale_param {{ axis: 0 num_axes: 0 filler {{ value: 1.25 }} }} }}\n'
                     f'layer {{ name: "bias{i}" type: "Bias" bottom: "t{i}" top: "s{i}" bias_param {{ axis: 0 num_axes: 0 }} }}\n'
                     f'layer {{ name: "sum{i}" type: "Reduction" bottom: "s{i}" top: "sum{i}" loss_weight: 0.01 reduction_param {{ operation: SUMSQ }} }}\n')
    return text


def under_test(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], weights: list[float]) -> str:
    bottoms = " ".join(f'bottom: "{"b" if i in labels else "s"}{i}"' for i in range(len(shapes)))
    down = " ".join(f"propagate_down: {str(i not in labels).lower()}" for i in range(len(shapes))) if labels else ""
    return f'layer {{ name: "l" {bottoms} {layer} {down} {" ".join(f"loss_weight: {w}" for w in weights)} }}\n'


def trained(text: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], iter_size: int = 1, keep: bool = False, steps: int = 3) -> dict[str, np.ndarray]:
    """The parameters after some steps."""
    param = pb.SolverParameter(base_lr=0.01, lr_policy="fixed", momentum=0.9, random_seed=1, iter_size=iter_size)
    parse(text, param.net_param, "net.prototxt")
    solver = brew.get_solver(param)
    solver.net.keep_blobs = keep
    rng = np.random.default_rng(0)
    for i, shape in enumerate(shapes):
        solver.net.blobs[f"b{i}"].data[...] = rng.integers(0, 4, shape) if i in labels else rng.uniform(0.2, 1, shape)
    if 'type: "Sampled' in text:
        GRADIENTS.fill_active_sets(rng, solver.net.blobs["b1"], solver.net.blobs["b2"])
    for _ in range(steps):
        solver.step(1)
    return {f"{layer}[{k}]": blob.data.copy() for layer, blobs in solver.net.params.items() for k, blob in enumerate(blobs)}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in a:
        assert np.isfinite(a[name]).all() and np.array_equal(a[name], b[name]), name


def tops_of(layer: str) -> int:
    return len(re.findall(r'top: "', layer))


@pytest.mark.parametrize("layer, shapes, labels", CASES, ids=NAMES)
def test_a_branch_without_a_loss_changes_nothing(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    plain = inputs(shapes, labels)
    branch = plain + under_test(layer, shapes, labels, [0] * tops_of(layer))
    assert_same(trained(plain, shapes, labels, iter_size=2, steps=2), trained(branch, shapes, labels, iter_size=2, steps=2))


@pytest.mark.parametrize("layer, shapes, labels", CASES, ids=NAMES)
def test_reused_memory_changes_nothing_whichever_tops_have_a_loss(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    """Also layers of which a top has no gradient, and that give a bottom none."""
    n = tops_of(layer)
    for live in range(n) if "Loss" not in layer else [0]:
        text = inputs(shapes, labels) + under_test(layer, shapes, labels, [0.1 * (k == live) for k in range(n)])
        assert_same(trained(text, shapes, labels, keep=True), trained(text, shapes, labels))


NET = """
layer { name: "in" type: "Input" top: "b0" top: "b1" top: "b2" input_param { shape { dim: 128 dim: 3 } shape { dim: 128 dim: 128 } shape { dim: 128 } } }
layer { name: "ip0" type: "InnerProduct" bottom: "b0" top: "ip0" inner_product_param { num_output: 128 weight_filler { type: "xavier" } } }
layer { name: "s" type: "Sigmoid" bottom: "ip0" top: "s" }
layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip" inner_product_param { num_output: 128 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "b1" top: "ce" }
"""
BRANCHES = {
    "a loss of weight 0": 'layer { name: "l2" type: "EuclideanLoss" bottom: "ip" bottom: "b1" top: "l2" loss_weight: 0 }',
    "a loss of weight 0 behind a layer": 'layer { name: "g" type: "Sigmoid" bottom: "ip" top: "g" } layer { name: "l2" type: "EuclideanLoss" bottom: "g" bottom: "b1" top: "l2" loss_weight: 0 }',
    "a loss of weight 0 behind a layer that could learn": 'layer { name: "i2" type: "InnerProduct" bottom: "ip" top: "i2" inner_product_param { num_output: 128 weight_filler { type: "xavier" } } }'
                                                          'layer { name: "l2" type: "EuclideanLoss" bottom: "i2" bottom: "b1" top: "l2" loss_weight: 0 }',
    "propagate_down: false": 'layer { name: "l2" type: "EuclideanLoss" bottom: "ip" bottom: "b1" top: "l2" propagate_down: false propagate_down: false }',
    "propagate_down: false at a layer that learns": 'layer { name: "i2" type: "InnerProduct" bottom: "ip" top: "i2" propagate_down: false inner_product_param { num_output: 128 weight_filler { type: "xavier" } } }'
                                                    'layer { name: "l2" type: "EuclideanLoss" bottom: "i2" bottom: "b1" top: "l2" }',
    "an output": 'layer { name: "g" type: "Softmax" bottom: "ip" top: "g" }',
    "an output in place behind a layer": 'layer { name: "g" type: "TanH" bottom: "ip" top: "g" } layer { name: "h" type: "Sigmoid" bottom: "g" top: "g" }',
    "a view": 'layer { name: "g" type: "Flatten" bottom: "ip" top: "g" } layer { name: "h" type: "Reshape" bottom: "g" top: "h" reshape_param { shape { dim: -1 dim: 2 } } }',
    "Silence": 'layer { name: "q" type: "Silence" bottom: "ip" }',
    "Silence behind a layer": 'layer { name: "g" type: "Sigmoid" bottom: "ip" top: "g" } layer { name: "q" type: "Silence" bottom: "g" }',
    "Accuracy": 'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "b2" top: "a" }',
    "Accuracy behind Softmax": 'layer { name: "g" type: "Softmax" bottom: "ip" top: "g" } layer { name: "a" type: "Accuracy" bottom: "g" bottom: "b2" top: "a" }',
    "ArgMax": 'layer { name: "a" type: "ArgMax" bottom: "ip" top: "a" }',
    "several": 'layer { name: "a" type: "ArgMax" bottom: "ip" top: "a" } layer { name: "q" type: "Silence" bottom: "ip" } layer { name: "g" type: "Softmax" bottom: "ip" top: "g" }',
    "a size": 'layer { name: "c" type: "Crop" bottom: "b1" bottom: "ip" top: "c" crop_param { axis: 1 } } layer { name: "q" type: "Silence" bottom: "c" }',
}


@pytest.mark.parametrize("branch", BRANCHES.values(), ids=BRANCHES.keys())
@pytest.mark.parametrize("iter_size", [1, 2])
def test_blobs_of_64_kB_in_a_net_that_trains(branch: str, iter_size: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()                                                  # the sizes from which memory is reused, as users have them
    shapes: list[tuple[int, ...]] = [(128, 3), (128, 128), (128,)]
    assert_same(trained(NET, shapes, (2,), iter_size), trained(NET + branch, shapes, (2,), iter_size))


def test_a_slice_of_which_a_part_is_unused(device: str) -> None:
    cut = NET + """
    layer { name: "cut" type: "Slice" bottom: "s" top: "p" top: "q" slice_param { slice_point: 64 } }
    layer { name: "l2" type: "Reduction" bottom: "p" top: "l2" loss_weight: 0.1 reduction_param { operation: SUMSQ } }"""
    shapes: list[tuple[int, ...]] = [(128, 3), (128, 128), (128,)]
    for more in ("", 'layer { name: "quiet" type: "Silence" bottom: "q" }'):
        assert_same(trained(cut + more, shapes, (2,), keep=True), trained(cut + more, shapes, (2,)))


def test_a_whole_backward_pass_of_the_user_after_a_step_finds_no_gradient_missing(device: str) -> None:
    """solver.step releases gradients; net.forward() and net.backward() by hand then compute all of them anew."""
    grads = []
    for steps in (0, 1):
        param = pb.SolverParameter(base_lr=0, lr_policy="fixed", random_seed=1)
        parse(NET + BRANCHES["Accuracy"] + "force_backward: true", param.net_param, "net.prototxt")
        solver = brew.get_solver(param)
        solver.net.blobs["b0"].data[...] = 1
        solver.step(steps)
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        grads.append([solver.net.params[name][0].diff.copy() for name in ("ip0", "ip")])
    assert all(np.array_equal(a, b) and a.any() for a, b in zip(*grads))


USER = """
import brew
class Once(brew.Layer):
    '''Fills its second top once, and sends back a gradient every second time.'''
    def setup(self, bottom, top):
        self.calls = 0
        top[1].reshape(4, 5)
        top[1].data[...] = 3
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * top[1].data.mean()
    def backward(self, top, propagate_down, bottom):
        self.calls += 1
        if self.calls % 2:
            bottom[0].diff[...] = top[0].diff
"""


def test_a_user_s_layer_need_not_fill_all_tops_and_gradients(device: str, working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (working_directory / "once.py").write_text(USER)
    monkeypatch.syspath_prepend(str(working_directory))
    text = inputs([(4, 5)], ()) + """layer { name: "u" type: "Python" bottom: "s0" top: "u" top: "v" python_param { module: "once" layer: "Once" } }
        layer { name: "l2" type: "EuclideanLoss" bottom: "u" bottom: "v" top: "l2" propagate_down: true propagate_down: false }"""
    assert_same(trained(text, [(4, 5)], (), keep=True, steps=4), trained(text, [(4, 5)], (), steps=4))
