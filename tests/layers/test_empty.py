"""Batches without items: every layer type runs them forward and backward, and nothing of the batch before remains."""
from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import brew
from brew.engine.errors import BrewError, NetError
from brew.engine.layer import LAYERS
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

pytestmark = pytest.mark.filterwarnings("error")              # the mean of nothing warns, and is NaN
Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A layer, the shapes of its bottoms for n items, and what bottoms hold: random numbers in -1..1, or `values`."""

    layer: str
    shapes: Callable[[int], Shapes]
    values: dict[int, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.layer.split('"')[1]

    def __str__(self) -> str:
        return self.layer.replace('"', "").removeprefix("type: ")[:80]


def gradient_cases() -> list[Case]:
    """The table of test_gradients.py: all that changes a layer's arithmetic. Items are axis 0 of the first bottom."""
    spec = importlib.util.spec_from_file_location("gradient_cases", Path(__file__).with_name("test_gradients.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def of(shapes: Shapes) -> Callable[[int], Shapes]:
        return lambda n: [(n, *s[1:]) if s[0] == shapes[0][0] else s for s in shapes]

    return [Case(layer, of(shapes), dict.fromkeys(labels, 1)) for layer, shapes, labels in module.CASES
            if not any(part in layer for part in PARTS_OF_A_BATCH)]


# The operand or the order has an extent for the items, so that other batches need other parameters.
PARTS_OF_A_BATCH = ("axis: 0 num_axes: -1", "bias_param { axis: 0 }", "BatchReindex")
IMAGE, BOX, PRIORS, ROI = (4, 6, 6), [0, 1, 0, 0, 0, 1, 1, 0], [[[0, 0, 0.5, 0.5] * 3, [0.1] * 12]], [0, 0, 0, 3, 3]
POOLED = "pooled_h: 2 pooled_w: 2"
RECURRENT = 'recurrent_param { num_output: 3 weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
FILTERS = 'num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } bias_filler { value: 1 }'


def rows(*shapes: tuple[int, ...]) -> Callable[[int], Shapes]:
    """Bottoms whose axis 0 counts items."""
    return lambda n: [(n, *s) for s in shapes]


MORE = [
    Case('type: "Accuracy" top: "y" top: "z" accuracy_param { ignore_label: 3 }', rows((5,), ()), {1: 1}),
    *(Case(f'type: "ArgMax" top: "y" argmax_param {{ top_k: 2 {o} }}', rows((3, 4)))
      for o in ("", "axis: 1", "out_max_val: true", "axis: -1 out_max_val: true")),
    Case('type: "BatchReindex" top: "y"', lambda n: [(5, 3), (n,)], {1: 1}),
    Case('type: "BoxAnnotatorOHEM" top: "y" top: "z" box_annotator_ohem_param { roi_per_img: 1 }',
         rows((5,), (), (), (4,))),
    *(Case(f'type: "{t}" top: "y" top: "z"', lambda n: [(5, n, 3), (n, 4)], {1: 1})
      for t in ("CTCGreedyDecoder", "CTCDecoder")),
    *(Case(f'type: "{t}" top: "y" top: "z"', lambda n: [(5, n, 3), (n, 2), (n,)], {1: 1, 2: 4})
      for t in ("CTCLoss", "CtcLoss", "WarpCTCLoss")),
    Case('type: "CTCLoss" top: "y" ctc_loss_param { time_step: 5 }', lambda n: [(5 * n, 3), (n, 2)], {1: 1}),
    Case('type: "DetectionEvaluate" top: "y" detection_evaluate_param { num_classes: 3 }',
         lambda n: [(1, 1, n, 7), (1, 1, n, 8)], {0: 1, 1: BOX}),
    Case('type: "DetectionOutput" top: "y" detection_output_param { num_classes: 3 keep_top_k: 2 }',
         lambda n: [(n, 12), (n, 9), (1, 2, 12)], {0: 0, 1: 0.5, 2: PRIORS}),
    Case('type: "HDF5Output" hdf5_output_param { file_name: "out.h5" }', rows((3,), ())),
    Case('type: "LSTMUnit" top: "c" top: "h"', lambda n: [(1, n, 3), (1, n, 12), (1, n)], {2: 1}),
    *(Case(f'type: "{t}" top: "y" {RECURRENT} }}', lambda n: [(4, n, 3), (4, n)], {1: 0}) for t in ("LSTM", "RNN")),
    Case(f'type: "LSTM" top: "y" top: "h" top: "c" {RECURRENT} expose_hidden: true }}',
         lambda n: [(4, n, 3), (4, n), (n, 5), (1, n, 3), (1, n, 3)], {1: 1}),
    Case(f'type: "RNN" top: "y" top: "h" {RECURRENT} expose_hidden: true }}',
         lambda n: [(4, n, 3), (4, n), (n, 5), (1, n, 3)], {1: 1}),
    *(Case(f'type: "MultiBoxLoss" top: "y" multibox_loss_param {{ num_classes: 3 {o} }}',
           lambda n: [(n, 12), (n, 9), (1, 2, 12), (1, 1, n, 8)], {2: PRIORS, 3: BOX})
      for o in ("", "conf_loss_type: LOGISTIC", "mining_type: NONE loc_loss_type: L2")),
    *(Case('type: "MultinomialLogisticLoss" top: "y" top: "z"', rows(*shapes), {0: 0.2, 1: 1})
      for shapes in (((5,), ()), ((5,), (), ()))),
    *(Case(f'type: "PrecisionAtK" top: "y" top: "z" precision_param {{ k: 1 k: 3 metric: {m} }}', rows(*shapes),
           dict.fromkeys(range(1, len(shapes)), 1))
      for m in ("PRECISION", "NDCG", "RECALL") for shapes in (((5,), (2,)), ((5,), (5,), (2,)))),
    Case('type: "Pooling" top: "y" top: "m" pooling_param { kernel_size: 2 }', rows(IMAGE)),
    Case('type: "Pooling" top: "y" pooling_param { pool: STOCHASTIC kernel_size: 2 }', rows(IMAGE)),
    Case('type: "PriorBox" top: "y" prior_box_param { min_size: 4 }', rows(IMAGE, (3, 20, 20))),
    Case('type: "PSROIPooling" top: "y" psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 }',
         lambda n: [(2, *IMAGE), (n, 5)], {1: ROI}),
    Case(f'type: "ROIAlign" top: "y" roi_align_param {{ {POOLED} }}', lambda n: [(2, *IMAGE), (n, 5)], {1: ROI}),
    Case(f'type: "ROIPooling" top: "y" roi_pooling_param {{ {POOLED} }}', lambda n: [(2, *IMAGE), (n, 5)], {1: ROI}),
    Case(f'type: "ROIPooling" top: "y" roi_pooling_param {{ {POOLED} }}', rows(IMAGE, (5,)), {1: ROI}),
    Case('type: "SegAccuracy" top: "y" seg_accuracy_param { ignore_label: 3 }', rows((5, 3, 3), (1, 3, 3)), {1: 1}),
    Case('type: "Silence"', rows(IMAGE, ())),
    Case('type: "SoftmaxWithLossOHEM" top: "y" top: "p" top: "each"', rows((5,), ()), {1: 1}),
    Case('type: "SyncBN" top: "y" bn_param { momentum: 0.9 }', rows(IMAGE)),
    Case('type: "Threshold" top: "y"', rows(IMAGE)),
    Case('type: "Upsample" top: "y"', rows((3, 2, 2), (3, 2, 2)), {1: 1}),
    Case(f'type: "Convolution" top: "y" convolution_param {{ {FILTERS} }}', rows((32, 12, 12))),
    *(Case(f'type: "{t}" top: "y" {field} {{ shape {{ dim: 0 dim: 3 }} }}', rows())
      for t, field in (("Input", "input_param"), ("DummyData", "dummy_data_param"), ("Parameter", "parameter_param"))),
    Case('type: "DummyData" top: "y" dummy_data_param { shape { dim: 0 } data_filler { type: "gaussian" } }', rows()),
    Case('type: "Python" top: "y" python_param { module: "empty_doubler" layer: "Doubler" }', rows((3,))),
]
CASES = [*gradient_cases(), *MORE]
REGIONS = ("ROIPooling", "PSROIPooling", "ROIAlign")
# Layers that read records: a batch of none is refused.
RECORDS = {
    "AnnotatedData": 'transform_param { resize_param { height: 8 width: 8 } } data_param { source: "x" batch_size: 0 }',
    "Data": 'data_param { source: "x" batch_size: 0 }',
    "HDF5Data": 'hdf5_data_param { source: "x" batch_size: 0 }',
    "ImageData": 'image_data_param { source: "x" batch_size: 0 }',
    "MemoryData": "memory_data_param { batch_size: 0 channels: 1 height: 1 width: 1 }",
    "SparseData": 'sparse_data_param { source: "x" batch_size: 0 }',
    "WindowData": 'transform_param { crop_size: 8 } window_data_param { source: "x" batch_size: 0 }',
}


@pytest.fixture(autouse=True)
def doubler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The module of the Python layer."""
    (tmp_path / "empty_doubler.py").write_text(
        "import brew\nclass Doubler(brew.Layer):\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data\n"
        "    def backward(self, top, down, bottom): bottom[0].diff[...] = 2 * top[0].diff\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "empty_doubler", raising=False)


def run(net: brew.Net, case: Case, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Forward and backward with n items; (tops, gradients of parameters)."""
    rng, layer = np.random.default_rng(7), net.nodes[-1]
    bottoms, tops = net.bottoms[-1], net.tops[-1]
    for i, (blob, shape) in enumerate(zip(bottoms, case.shapes(n))):
        blob.reshape(*shape)
        blob.data[...] = case.values.get(i, rng.uniform(-1, 1, shape))
    if layer.counter:
        setattr(layer, layer.counter, 0)                      # the same random draws each time
    net.forward()
    if not layer.is_loss:
        for top in tops:
            top.diff[...] = 1
    net.backward()
    return [top.data.copy() for top in tops], [blob.diff.copy() for blob in layer.blobs]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def test_every_layer_type_is_in_the_table() -> None:
    assert {case.type for case in CASES} | set(RECORDS) == set(LAYERS)


@pytest.mark.parametrize("name", RECORDS)
def test_layers_that_read_records_need_a_batch(name: str) -> None:
    with pytest.raises(NetError, match=r"batch_size.* must be .*more than 0"):
        one_layer_net(f'type: "{name}" top: "y" top: "z" {RECORDS[name]}')


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_items_add_nothing(case: Case, device: str) -> None:
    net = one_layer_net(case.layer, *case.shapes(2))
    blobs = net.nodes[-1].blobs
    more, _ = run(net, case, 4)
    net.clear_param_diffs()
    tops, gradients = run(net, case, 2)
    values = [blob.data.copy() for blob in blobs]            # statistics among them
    assert same(run(net, case, 0)[1], gradients), "the second half of an iteration of two"
    assert same([blob.data for blob in blobs], values)
    net.clear_param_diffs()
    empty, none = run(net, case, 0)
    assert [top.shape for top in empty] == [tuple(2 * np.array(a.shape, int) - b.shape) for a, b in zip(tops, more)]
    assert all((g == 0).all() for g in none)
    assert all(np.isfinite(top).all() for top in empty)
    assert [blob.diff.shape for blob in net.bottoms[-1]] == case.shapes(0)
    assert all((blob.diff == 0).all() for blob in net.bottoms[-1])
    assert not net.nodes[-1].is_loss or empty[0] == 0
    again, gradients_again = run(net, case, 2)
    assert same(gradients_again, gradients), "the first half of an iteration of two"
    assert same(again, tops)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_net_may_be_built_without_items(case: Case, device: str) -> None:
    net = one_layer_net(case.layer, *case.shapes(0))
    empty, none = run(net, case, 0)
    assert all((g == 0).all() for g in none) and all(np.isfinite(top).all() for top in empty)
    tops, gradients = run(net, case, 2)
    fresh_tops, fresh = run(one_layer_net(case.layer, *case.shapes(2)), case, 2)
    assert same(tops, fresh_tops) and same(gradients, fresh)


def emptied(shapes: Shapes) -> list[Shapes]:
    """These shapes with one axis of one blob empty, with all axes of one extent empty, and with one blob a scalar."""
    def changed(k: int, new: tuple[int, ...]) -> Shapes:
        return [*shapes[:k], new, *shapes[k + 1:]]

    alone = [changed(k, (*s[:a], 0, *s[a + 1:])) for k, s in enumerate(shapes) for a in range(len(s))]
    extents = {d for s in shapes for d in s}
    together = [[tuple(0 if d == extent else d for d in s) for s in shapes] for extent in extents]
    scalars = [changed(k, ()) for k in range(len(shapes))]
    return [list(s) for s in dict.fromkeys(tuple(s) for s in alone + together + scalars)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_empty_axis_gives_values_or_an_error_of_brew(case: Case, device: str) -> None:
    for shapes in emptied(case.shapes(2)):
        values = {i: v if np.size(v) == 1 else 0 for i, v in case.values.items()}
        try:
            net = one_layer_net(case.layer, *shapes)
            tops, gradients = run(net, Case(case.layer, lambda n, s=shapes: s, values), 2)
        except BrewError:
            continue
        except Exception as e:
            raise AssertionError(shapes) from e
        if case.type not in REGIONS or all(shapes[0][2:]):   # test_regions.py has maps without pixels
            assert all(np.isfinite(array).all() for array in tops + gradients), shapes


@pytest.mark.parametrize("kind, states", [("LSTM", 2), ("RNN", 1)])
def test_no_steps_leave_the_states_as_they_are(kind: str, states: int, device: str) -> None:
    tops = " ".join(f'top: "y{i}"' for i in range(1 + states))
    layer = f'type: "{kind}" {tops} {RECURRENT} expose_hidden: true }}'
    net = one_layer_net(layer, (0, 2, 5), (0, 2), *[(1, 2, 3)] * states)
    given = [np.full((1, 2, 3), 0.5 + i) for i in range(states)]
    for blob, values in zip(net.bottoms[-1][2:], given):
        blob.data[...] = values
    net.forward()
    assert net.blobs["y0"].shape == (0, 2, 3) and same([net.blobs[f"y{i + 1}"].data for i in range(states)], given)
    net.backward()
    assert all((blob.diff == 0).all() for blob in net.nodes[-1].blobs)


@pytest.mark.parametrize("layer, shapes, message", [
    ('type: "Convolution" top: "y" convolution_param { num_output: 3 kernel_size: 2 pad: 1 }', [(2, 4, 0, 6)],
     "needs channels and pixels; the bottom's shape is (2, 4, 0, 6)"),
    ('type: "DepthwiseConvolution" top: "y" convolution_param { num_output: 3 kernel_size: 2 }', [(2, 0, 6, 6)],
     "needs channels and pixels; the bottom's shape is (2, 0, 6, 6)"),
    ('type: "Deconvolution" top: "y" convolution_param { num_output: 3 kernel_size: 4 }', [(2, 4, 6, 0)],
     "needs channels and pixels; the bottom's shape is (2, 4, 6, 0)"),
    ('type: "Im2col" top: "y" convolution_param { kernel_size: 2 pad: 1 }', [(2, 4, 0, 6)],
     "needs channels and pixels; the bottom's shape is (2, 4, 0, 6)"),
    ('type: "BatchNorm" top: "y"', [(2, 0, 6)], "needs at least one channel; the bottom's shape is (2, 0, 6)"),
    ('type: "SPP" top: "y" spp_param { pyramid_height: 2 }', [(2, 4, 0, 6)],
     "pools pixels; the bottom's shape is (2, 4, 0, 6)"),
    ('type: "InfogainLoss" top: "y"', [(2, 0), (2,), (0, 0)], "needs at least one class; the scores' shape is (2, 0)"),
    ('type: "SegAccuracy" top: "y"', [(2, 0, 3, 3), (0, 1, 3, 3)],
     "needs at least one class; the scores' shape is (2, 0, 3, 3)"),
    ('type: "CTCGreedyDecoder" top: "y"', [(5, 2, 0)],
     "scores need the shape (T, N, C), C at least 1; found (5, 2, 0)"),
    ('type: "PriorBox" top: "y" prior_box_param { min_size: 4 }', [(2, 4, 6, 6), (2, 3, 0, 20)],
     "the image needs pixels, found (2, 3, 0, 20)"),
    ('type: "ArgMax" top: "y"', [()], "needs items, axis 0; the bottom is a scalar"),
])
def test_items_without_values_are_refused_by_name(layer: str, shapes: Shapes, message: str) -> None:
    with pytest.raises(NetError, match=re.escape(f'layer "l" (type "{layer.split(chr(34))[1]}"): {message}')):
        one_layer_net(layer, *shapes)


def test_a_loss_weight_holds_for_every_item_of_every_batch(device: str) -> None:
    net = one_layer_net('type: "InnerProduct" top: "y" loss_weight: 2 '
                        "inner_product_param { num_output: 3 weight_filler { value: 1 } }", (2, 5))
    for n in (2, 4, 0, 1, 4):                                 # also of more items than there were before
        net.clear_param_diffs()
        net.blobs["b0"].reshape(n, 5)
        net.blobs["b0"].data[...] = 1
        assert net.run_forward() == 2 * 15 * n
        net.backward()
        assert (net.params["l"][1].diff == 2 * n).all()


NET = """
layer { name: "filter" type: "Filter" bottom: "x" bottom: "select" top: "kept" }
layer { name: "conv1" type: "Convolution" bottom: "kept" top: "conv1"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "relu2" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "square" type: "Reduction" bottom: "ip" top: "square" loss_weight: 1
        reduction_param { operation: SUMSQ } }
"""


INPUTS = """layer { name: "in" type: "Input" top: "x" top: "select"
                 input_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } shape { dim: 4 } } }"""
ROWS = """layer { name: "in" type: "HDF5Data" top: "x" top: "select"
               hdf5_data_param { source: "x.txt" batch_size: 4 } }"""


def pass_through(net: brew.Net, keep: int) -> float:
    rng = np.random.default_rng(3)
    net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].shape)
    net.blobs["select"].data[...] = keep
    return net.run_forward()


def test_a_net_whose_filter_keeps_nothing_goes_on_unchanged(device: str) -> None:
    net, other = (brew.Net(parse(INPUTS + NET, pb.NetParameter()), brew.TEST, seed=1) for _ in range(2))
    for n in (net, other):
        n.params["bn1"][1].data[...] = n.params["bn1"][2].data[...] = 1
    assert pass_through(net, 0) == 0 and net.blobs["ip"].shape == (0, 2)
    assert pass_through(net, 1) == pass_through(other, 1) > 0
    assert pass_through(net, 0) == 0


@pytest.mark.parametrize("first", [0, 1])
def test_an_iteration_of_two_with_one_half_empty_is_half_of_the_other(first: int, device: str) -> None:
    """The gradient is divided by iter_size, so that half the step remains."""
    def train(keep: list[int], rate: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        with h5py.File("x.h5", "w") as file:
            file["x"] = np.tile(np.random.default_rng(3).standard_normal((4, 3, 12, 12)), (len(keep), 1, 1, 1))
            file["select"] = np.repeat(keep, 4)
        Path("x.txt").write_text("x.h5\n")
        param = pb.SolverParameter(base_lr=rate, lr_policy="fixed", iter_size=len(keep), random_seed=1)
        param.train_net_param.CopyFrom(parse(ROWS + NET, pb.NetParameter()))
        solver = brew.SGDSolver(param)
        before = [blob.data.copy() for p in solver.net.params.values() for blob in p]
        solver.step(3)
        return before, [blob.data.copy() for p in solver.net.params.values() for blob in p]

    before, after = train([first, 1 - first], 0.02)
    _, expected = train([1], 0.01)
    assert not same(before, after)
    for a, b in zip(after, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
