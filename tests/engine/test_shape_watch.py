"""Blobs that a script reshapes between the passes: an error that names the layer, never an access outside of an array."""
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.blob import Blob
from brew.engine.errors import BrewError, ShapeError
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

BIG = 3000                                                        # items of the larger shape: what is read beyond the end is no neighbour


def gradient_cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gradient_cases", Path(__file__).parents[1] / "layers" / "test_gradients.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRADIENTS = gradient_cases()


def ready(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...]) -> brew.Net:
    net = one_layer_net(layer, *shapes)
    GRADIENTS.fill(net, labels)
    net.forward()
    if not any(net.layers[-1].loss_weights):
        for top in net.tops[-1]:
            top.diff[...] = 1
    return net


def others(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A smaller and a larger shape; of a scalar, a row."""
    return [(0, *shape[1:]), (BIG, *shape[1:])] if shape else [(BIG,)]


@pytest.mark.parametrize("layer, shapes, labels", GRADIENTS.CASES, ids=lambda v: v.replace('top: "y" ', "").replace('"', "")[:80] if isinstance(v, str) else "")
def test_backward_refuses_blobs_of_other_shapes(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    """Every bottom, top and parameter of every layer, reshaped since forward; a parameter also before a forward."""
    kinds = ("bottom", "top", "parameter")
    counts = [len(blobs) for blobs in blobs_of(ready(layer, shapes, labels))]
    for kind, count in zip(range(3), counts):
        for k in range(count):
            for size in range(2):
                net = ready(layer, shapes, labels)
                blob = blobs_of(net)[kind][k]
                shape = others(blob.shape)[min(size, len(others(blob.shape)) - 1)]
                if shape == blob.shape:
                    continue
                before, _ = blob.shape, blob.reshape(*shape)
                with pytest.raises(ShapeError) as error:
                    net.backward()
                what = f"{kinds[kind]} {k}"
                if not (kind == 1 and blob in net.bottoms[-1]):                   # in place, it is a bottom, too
                    assert f'layer "l" (type "{net.layers[-1].type}"): {what} had the shape {before} in the last forward pass, and has {shape} now' in str(error.value)
                if kind == 2:
                    with pytest.raises(ShapeError, match=what):
                        net.forward()


def blobs_of(net: brew.Net) -> tuple[list[Blob], list[Blob], list[Blob]]:
    return net.bottoms[-1], net.tops[-1], list(net.layers[-1].blobs)


@pytest.mark.parametrize("layer, shapes, labels", GRADIENTS.CASES, ids=lambda v: v.replace('top: "y" ', "").replace('"', "")[:80] if isinstance(v, str) else "")
def test_forward_gives_tops_their_shapes_back(layer: str, shapes: list[tuple[int, ...]], labels: tuple[int, ...], device: str) -> None:
    """As Caffe does, which reshapes every layer at every forward. In place, the top is the user's input."""
    net = ready(layer, shapes, labels)
    if any(top in net.bottoms[-1] for top in net.tops[-1]):
        return
    random = bool(net.layers[-1].counter)
    for k, top in enumerate(net.tops[-1]):
        before, expected = top.shape, None if random else top.data.copy()
        for shape in others(top.shape):
            top.reshape(*shape)
            net.forward()
            assert top.shape == before
            if expected is not None and net.layers[-1].type not in ("BatchNorm", "BN"):
                assert np.array_equal(top.data, expected)
            net.backward()


TWO = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" } } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }"""


def two(*, phase: int = brew.TRAIN) -> brew.Net:
    return brew.Net(parse(TWO, pb.NetParameter(), "two.prototxt"), phase)


def test_the_message() -> None:
    net = two()
    net.forward()
    net.blobs["c"].reshape(1, 4, 4, 4)
    with pytest.raises(ShapeError) as error:
        net.backward()
    assert str(error.value) == ('two.prototxt:4:1: layer "p" (type "Pooling"): bottom 0 had the shape (2, 4, 4, 4) in the last forward pass, and has (1, 4, 4, 4) now'
                                "\n  run forward again before backward")


def test_a_part_that_ran_in_new_shapes_runs_backward() -> None:
    """The usual way to give an input another size; layers that have not seen it are refused."""
    net = two()
    net.forward()
    net.blobs["x"].reshape(1, 3, 8, 8)
    net.forward(end="c")
    net.blobs["c"].diff[...] = 1
    net.backward(start="c")
    with pytest.raises(ShapeError, match='layer "p"'):
        net.backward()
    net.reshape()
    with pytest.raises(ShapeError, match='layer "p"'):                            # which has no values of that shape
        net.backward()
    net.forward()
    net.backward()
    assert net.blobs["x"].diff.shape == (1, 3, 8, 8)


def test_runs_without_a_reshape_compare_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = two()
    net.forward()
    net.backward()

    def compared(*args: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(net.run.watch, "_shapes_of", compared)
    monkeypatch.setattr(net.run.watch, "_compare", compared)
    for _ in range(2):
        net.forward()
        net.backward()
    Blob((1, 2))                                                                  # any blob of the process
    with pytest.raises(AssertionError):
        net.forward()


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_hooks_and_single_layers_are_watched_too(where: str) -> None:
    net = two()
    net.forward()
    net.before_backward(lambda i: None)
    net.params["c"][0].reshape(1)
    with pytest.raises(BrewError, match="parameter 0 had the shape"):
        net.forward(start="c", end="c") if where == "forward" else net.backward(start="c", end="c")
