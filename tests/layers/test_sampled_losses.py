"""Losses with lists of labels: over active sets, and over all outputs."""
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import BrewError, DataError, NetError
from brew.kernels import cpu
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

RNG = np.random.default_rng(0)
SAMPLED = {"SoftmaxWithLoss": "SampledSoftmaxWithLoss", "SigmoidCrossEntropyLoss": "SampledSigmoidCrossEntropyLoss"}
DENSE = sorted(SAMPLED)
# items, units of a set, labels: one, what vectors leave over, none
SHAPES = [(3, 7, 2), (2, 64, 3), (2, 65, 9), (1, 1, 1), (3, 300, 75), (0, 5, 2), (3, 0, 2), (3, 4, 0), (2, 3, 5)]


def active_sets(n: int, width: int, labels: int, order: str = "random", padding: bool = True) -> tuple[np.ndarray, ...]:
    """(scores, units, labels): distinct units, labels first or anywhere or all sorted; lists of all lengths."""
    unit, label = np.full((n, width), -1), np.full((n, labels), -1)
    for i in range(n):
        unit[i] = RNG.permutation(5 * width + 1)[:width]
        own = RNG.permutation(unit[i])[:RNG.integers(0, labels + 1)]
        if order == "first":
            unit[i] = [*own, *(u for u in unit[i] if u not in own)]
        elif order == "sorted":
            unit[i].sort()
        if padding and width:
            away = ~np.isin(unit[i], own) & (RNG.random(width) < 0.3)
            unit[i, away] = -1
        label[i, RNG.permutation(labels)[:len(own)]] = own
    return 3 * RNG.standard_normal((n, width)).astype(np.float32), unit, label


def definition(kind: str, score: np.ndarray, unit: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(each item's loss, its gradient), in double precision from the formulas."""
    each, slope = np.zeros(len(score)), np.zeros(score.shape)
    for i, row in enumerate(score.astype(np.float64)):
        active, own = unit[i] >= 0, set(label[i][label[i] >= 0].tolist())
        if not own:
            continue
        x, target = row[active], np.isin(unit[i][active], list(own)).astype(float)
        if kind == "SoftmaxWithLoss":
            logs = x - x.max() - np.log(np.exp(x - x.max()).sum())
            target /= len(own)
            each[i], slope[i, active] = -(logs * target).sum(), np.exp(logs) - target
        else:
            each[i] = (np.maximum(x, 0) + np.log1p(np.exp(-abs(x))) - x * target).sum()
            slope[i, active] = np.exp(-np.logaddexp(0, -x)) - target
    return each, slope


def run(layer: str, *values: Any, top: str = 'top: "loss"') -> brew.Net:
    """The layer's net after forward and backward."""
    net = one_layer_net(f"{top} {layer}", *(np.shape(v) for v in values))
    for i, v in enumerate(values):
        net.blobs[f"b{i}"].data[...] = v
    net.forward()
    net.backward()
    return net


def sampled(kind: str, more: str = "") -> str:
    return f'type: "{SAMPLED[kind]}" loss_param {{ {more} }}'


def dense(kind: str, more: str = "") -> str:
    return f'type: "{kind}" loss_param {{ label_lists: true {more} }}'


EACH = 'top: "loss" top: "each"'


@pytest.mark.parametrize("order", ["first", "sorted", "random"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", DENSE)
def test_a_sampled_loss_agrees_with_its_definition(kind: str, shape: tuple[int, int, int], order: str,
                                                   device: str) -> None:
    score, unit, label = active_sets(*shape, order, padding=order != "sorted")
    each, slope = definition(kind, score, unit, label)
    score[unit < 0] = RNG.choice([np.nan, np.inf, -np.inf, 1e30], (unit < 0).sum())        # padding: of no consequence
    net = run(sampled(kind), score, unit, label, top=EACH)
    divisor = max(1, (label >= 0).any(1).sum() if kind == "SoftmaxWithLoss" else shape[0])
    np.testing.assert_allclose(net.blobs["each"].data, each, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(net.blobs["loss"].data, each.sum() / divisor, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(net.blobs["b0"].diff, slope / divisor, rtol=1e-5, atol=1e-6)
    assert (net.blobs["b0"].diff[unit < 0] == 0).all()
    assert (net.blobs["b0"].diff[(label < 0).all(1)] == 0).all()


@pytest.mark.parametrize("more", ["", "normalization: VALID", "normalization: FULL", "normalization: NONE",
                                  "normalization: BATCH_SIZE", "normalization: PRE_FIXED pre_fixed_normalizer: 7"])
@pytest.mark.parametrize("kind", DENSE)
def test_over_all_outputs_the_sampled_loss_is_the_dense_one(kind: str, more: str, device: str) -> None:
    """Bit for bit with the units in their order; with a weight for each item."""
    score, _, _ = active_sets(5, 37, 4)
    label, weights = RNG.integers(-1, 37, (5, 4)), RNG.random(5)
    label[3] = -1
    whole = run(dense(kind, more), score, label, weights)
    order = np.stack([RNG.permutation(37) for _ in range(5)])
    for unit, exact in ((np.tile(np.arange(37), (5, 1)), True), (order, False)):
        net = run(sampled(kind, more), np.take_along_axis(score, unit, 1), unit, label, weights)
        tolerance = 0.0 if exact else 1e-5
        np.testing.assert_allclose(net.blobs["loss"].data, whole.blobs["loss"].data, rtol=tolerance)
        back = np.zeros((5, 37))
        np.put_along_axis(back, unit, net.blobs["b0"].diff, 1)
        np.testing.assert_allclose(back, whole.blobs["b0"].diff, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("kind, counted, all_sets", [("SoftmaxWithLoss", 2, 3), ("SigmoidCrossEntropyLoss", 7, 15)])
def test_what_the_sum_is_divided_by(kind: str, counted: int, all_sets: int, device: str) -> None:
    """VALID: items with labels, or the units in their sets; FULL: items, or units and padding."""
    score, label = np.ones((3, 5)), np.array([[1, 0], [4, -1], [-1, -1]])
    unit = np.array([[0, 1, 2, -1, -1], [4, 5, 6, 7, -1], [1, 2, 3, 4, 5]])
    sums = definition(kind, score, unit, label)[0].sum()
    for mode, divisor in (("VALID", counted), ("FULL", all_sets), ("BATCH_SIZE", 3), ("NONE", 1)):
        net = run(sampled(kind, f"normalization: {mode}"), score, unit, label)
        assert float(net.blobs["loss"].data) == pytest.approx(sums / divisor, rel=1e-5), mode


@pytest.mark.parametrize("kind", DENSE)
def test_torch_agrees(kind: str, device: str) -> None:
    torch = pytest.importorskip("torch")
    score = 3 * RNG.standard_normal((6, 50)).astype(np.float32)
    label = np.stack([RNG.permutation(50)[:4] for _ in range(6)])
    label[1, 2:] = -1
    target = np.zeros((6, 50), np.float32)
    for row, own in zip(target, label):
        row[own[own >= 0]] = 1 / (own >= 0).sum() if kind == "SoftmaxWithLoss" else 1
    x = torch.tensor(score, requires_grad=True)
    if kind == "SoftmaxWithLoss":
        loss = torch.nn.functional.cross_entropy(x, torch.tensor(target))
    else:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x, torch.tensor(target), reduction="sum") / 6
    loss.backward()
    net = run(dense(kind), score, label)
    assert float(net.blobs["loss"].data) == pytest.approx(float(loss.detach()), rel=1e-5)
    np.testing.assert_allclose(net.blobs["b0"].diff, x.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_a_list_of_one_label_is_a_label(device: str) -> None:
    score, label = RNG.standard_normal((4, 9)), RNG.integers(0, 9, 4)
    tops = 'top: "loss" top: "p" top: "each"'
    one = run('type: "SoftmaxWithLoss"', score, label, top=tops)
    lists = run(dense("SoftmaxWithLoss"), score, np.stack([label, np.full(4, -1)], 1), top=tops)
    for name in ("loss", "p", "each"):
        np.testing.assert_allclose(lists.blobs[name].data, one.blobs[name].data, rtol=1e-5)
    np.testing.assert_allclose(lists.blobs["b0"].diff, one.blobs["b0"].diff, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_the_same_with_a_top_for_the_probabilities(device: str) -> None:
    score, label = RNG.standard_normal((4, 9)), RNG.integers(-1, 9, (4, 3))
    alone = run(dense("SoftmaxWithLoss"), score, label)
    both = run(dense("SoftmaxWithLoss"), score, label, top='top: "loss" top: "p"')
    np.testing.assert_allclose(both.blobs["b0"].diff, alone.blobs["b0"].diff, rtol=1e-5, atol=1e-7)
    assert alone.blobs["b0"].diff.any()


def test_probabilities_of_items_without_labels_add_up_to_one(device: str) -> None:
    net = run(dense("SoftmaxWithLoss"), RNG.standard_normal((3, 9)), np.full((3, 2), -1), top='top: "loss" top: "p"')
    np.testing.assert_allclose(net.blobs["p"].data.sum(1), 1, rtol=1e-5)
    assert net.blobs["loss"].data == 0 and not net.blobs["b0"].diff.any()


@pytest.mark.parametrize("kind", DENSE)
def test_a_label_that_comes_again_counts_once(kind: str, device: str) -> None:
    score, unit, _ = active_sets(2, 70, 0, padding=False)
    a, b = unit[:, 8], unit[:, 69]
    once = run(sampled(kind), score, unit, np.stack([a, b], 1))
    again = run(sampled(kind), score, unit, np.stack([a, a, b, a, b], 1))
    assert once.blobs["loss"].data == again.blobs["loss"].data
    assert np.array_equal(once.blobs["b0"].diff, again.blobs["b0"].diff)


@pytest.mark.parametrize("kind", DENSE)
def test_large_scores_neither_overflow_nor_lose_digits(kind: str, device: str) -> None:
    unit, label = np.tile(np.arange(4), (4, 1)), np.array([[0], [1], [0], [3]])
    score = np.array([[1e4, -1e4, 0, 0], [1e4, -1e4, 0, 0], [-1e4, -1e4, -1e4, -1e4], [1, 2, -np.inf, 3]])
    net = run(sampled(kind), score, unit, label, top=EACH)
    each = {"SoftmaxWithLoss": [0, 2e4, np.log(4), np.log(1 + np.exp(-1) + np.exp(-2))],
            "SigmoidCrossEntropyLoss": [2 * np.log(2), 2e4 + 2 * np.log(2), 1e4,
                                        np.logaddexp(0, [1, 2, -3]).sum()]}[kind]
    np.testing.assert_allclose(net.blobs["each"].data, each, rtol=1e-6, atol=1e-7)
    assert np.isfinite(net.blobs["b0"].diff).all()


def test_small_terms_of_many_units_are_not_lost(device: str) -> None:
    """log(1 + t) of a t that 1 + t would round away."""
    score, unit = np.full((1, 5000), -20.0), np.arange(5000)[None]
    score[0, 0] = 20
    net = run(sampled("SigmoidCrossEntropyLoss"), score, unit, [[0]])
    assert float(net.blobs["loss"].data) == pytest.approx(5000 * np.log1p(np.exp(-20.0)), rel=1e-5)


@pytest.mark.parametrize("kind", DENSE)
def test_a_score_that_is_no_number_is_seen_in_the_loss(kind: str, device: str) -> None:
    score, unit, label = active_sets(3, 20, 2, padding=False)
    label[1] = unit[1, :2]
    score[1, 7] = np.nan
    each = run(sampled(kind), score, unit, label, top=EACH).blobs["each"].data
    assert np.isnan(each[1]) and np.isfinite(each[[0, 2]]).all()


@pytest.mark.parametrize("kind", DENSE)
def test_widths_change_from_batch_to_batch(kind: str, device: str) -> None:
    net = one_layer_net(f"{EACH} {sampled(kind)}", (2, 3), (2, 3), (2, 1))
    for shape in [(2, 9, 4), (2, 3, 1), (5, 30, 6), (0, 3, 1), (2, 0, 3), (3, 8, 0), (2, 50, 2)]:
        score, unit, label = active_sets(*shape)
        for i, values in enumerate((score, unit, label)):
            net.blobs[f"b{i}"].reshape(*values.shape)
            net.blobs[f"b{i}"].data[...] = values
        net.forward()
        net.backward()
        each, slope = definition(kind, score, unit, label)
        np.testing.assert_allclose(net.blobs["each"].data, each, rtol=2e-5, atol=2e-6)
        assert np.allclose((net.blobs["b0"].diff != 0), slope != 0) and net.blobs["b0"].diff.shape == slope.shape


@pytest.mark.parametrize("kind", DENSE)
def test_whole_numbers_beyond_those_of_floats_are_told_apart(kind: str, device: str) -> None:
    """Units and labels that come as int32, as layers of brew hand them on."""
    unit, label = np.array([[2**24 + 1, 2**24, 2**24 + 2]]), np.array([[2**24 + 1]])
    net = one_layer_net(f'top: "loss" {sampled(kind)}', (1, 3), (1, 3), (1, 1))
    net.blobs["b0"].data[...] = [[1, 2, 3]]
    for name, values in (("b1", unit), ("b2", label)):
        net.blobs[name].value.write_as(np.int32)[...] = net.context.device.xp.asarray(values)
    net.forward()
    net.backward()
    _, slope = definition(kind, net.blobs["b0"].data, unit, label)
    np.testing.assert_allclose(net.blobs["b0"].diff, slope, rtol=1e-5)
    net.blobs["b2"].value.write_as(np.int32)[...] = 2**24 + 3
    with pytest.raises(DataError, match=f"label {2**24 + 3}, number 0"):
        net.forward()


@pytest.mark.parametrize("which, bad", [(1, 7.0), (2, 99.0)])
@pytest.mark.parametrize("kind", DENSE)
def test_backward_goes_by_what_forward_read(kind: str, which: int, bad: float, device: str) -> None:
    score, unit, label = active_sets(3, 20, 2)
    net = run(sampled(kind), score, unit, label)
    expected = net.blobs["b0"].diff.copy()
    net.blobs[f"b{which}"].data[...] = bad
    net.backward()
    assert np.array_equal(net.blobs["b0"].diff, expected)


@pytest.mark.parametrize("kind", DENSE)
def test_one_thread_and_two_give_the_same_bits(kind: str) -> None:
    score, unit, label = active_sets(7, 4096, 5)
    found = []
    for threads in (1, 2):
        with brew.Context(threads=threads):
            net = run(sampled(kind), score, unit, label, top=EACH)
            arrays = net.blobs["loss"].data, net.blobs["each"].data, net.blobs["b0"].diff
            found.append([array.tobytes() for array in arrays])
    assert found[0] == found[1]


def test_units_of_a_layer_that_learns_need_no_propagate_down() -> None:
    """As LSHInnerProduct makes them: scores and units of one layer, the units without a gradient."""
    text = """layer { name: "x" type: "Input" top: "x" top: "label"
                      input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 1 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "x" top: "score"
                      inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
              layer { name: "unit" type: "Power" bottom: "score" top: "unit" power_param { scale: 0 shift: 4 } }
              layer { name: "loss" type: "SampledSigmoidCrossEntropyLoss" bottom: "score" bottom: "unit" bottom: "label"
                      top: "loss" }"""
    net = brew.Net(parse(text, pb.NetParameter()), brew.TRAIN)
    net.blobs["x"].data[...] = 1
    net.blobs["label"].data[...] = 4
    net.blobs["unit"].diff[...] = 7
    net.forward()
    net.backward()
    slope = 1 / (1 + np.exp(-net.blobs["score"].data)) - 1
    np.testing.assert_allclose(net.params["ip"][1].diff, slope.mean(0), rtol=1e-5)
    assert not net.blobs["unit"].diff.any()


# -------------------------------------------------------------------------------------------------------------- errors

UNITS, LABELS = [[5, 9, -1], [3, 4, 6]], [[5, -1], [4, 3]]
AT_1 = "item 1 of the batch: "
BAD_UNIT = ", is no unit, nor the padding -1"


@pytest.mark.parametrize("unit, label, says", [
    (UNITS, [[5, -1], [4, 5]], f"{AT_1}label 5, number 1 of its list, is not in its active set"),
    (UNITS, [[5, -1], [-2, 3]], f"{AT_1}label -2, number 0 of its list, is not in its active set"),
    (UNITS, [[5, np.nan], [4, 3]], "item 0 of the batch: label nan, number 1 of its list, is not in its active set"),
    (UNITS, [[5, -1], [1e10, 3]], f"{AT_1}label 1e+10, number 0 of its list, is not in its active set"),
    ([[5, 9, -1], [3, 4, -2]], LABELS, f"{AT_1}unit -2, number 2 of its active set{BAD_UNIT}"),
    ([[5, 9, -1], [3, 4, np.inf]], LABELS, f"{AT_1}unit inf, number 2 of its active set{BAD_UNIT}"),
    ([[-5, 9, 5], [3, 4, -2]], LABELS, f"item 0 of the batch: unit -5, number 0 of its active set{BAD_UNIT}"),
])
@pytest.mark.parametrize("kind", DENSE)
def test_a_number_that_is_wrong_is_named(kind: str, unit: Any, label: Any, says: str, device: str) -> None:
    with pytest.raises(DataError) as error:
        run(sampled(kind), np.zeros((2, 3)), unit, label)
    assert str(error.value).endswith(f'layer "l" (type "{SAMPLED[kind]}"): {says}')


@pytest.mark.parametrize("value", [3, -2])
@pytest.mark.parametrize("kind", DENSE)
def test_a_label_that_is_no_class_is_named(kind: str, value: int, device: str) -> None:
    says = f"{AT_1}label {value}, number 1 of its list, is none of the 3 classes, 0 to 2"
    with pytest.raises(DataError, match=re.escape(says)):
        run(dense(kind), np.zeros((2, 3)), [[0, -1], [2, value]])


@pytest.mark.parametrize("layer, shapes, says", [
    (sampled("SoftmaxWithLoss", "ignore_label: 0"), [(2, 3), (2, 3), (2, 1)],
     "ignore_label is for one label an item; bottom 2 has lists of labels"),
    (sampled("SigmoidCrossEntropyLoss", "class_weighting: 1"), [(2, 3), (2, 3), (2, 1)],
     "class_weighting is for one label"),
    (dense("SoftmaxWithLoss", "label_smoothing: 0.1"), [(2, 3), (2, 1)],
     "label_smoothing is for one label an item; bottom 1 has lists of labels"),
    (dense("SigmoidCrossEntropyLoss", "ignore_label: 1"), [(2, 3), (2, 3)], "ignore_label is for one label an item"),
    (sampled("SoftmaxWithLoss", "label_lists: false"), [(2, 3), (2, 3), (2, 1)],
     "this loss always takes lists of labels"),
    (sampled("SoftmaxWithLoss"), [(2, 3), (2, 4), (2, 1)],
     "scores and units need the same shape: the shapes are (2, 3) and (2, 4)"),
    (sampled("SoftmaxWithLoss"), [(2, 3), (2, 3), (3, 1)], "there are 2 items and 3 lists of labels, shape (3, 1)"),
    (sampled("SoftmaxWithLoss"), [(2, 3), (2, 3), ()], "needs items, axis 0, in all bottoms"),
    (sampled("SoftmaxWithLoss"), [(2, 3), (2, 3), (2, 1), (3,)], "there are 2 items and 3 weights"),
    (sampled("SoftmaxWithLoss"), [(2, 3), (2, 1)], "takes 3 to 4 bottom blobs, found 2"),
    (dense("SoftmaxWithLoss"), [(2, 3, 4), (2, 1)],
     "label_lists is for scores (N, C), found (2, 3, 4) with the class axis 1"),
    ('type: "HingeLoss" loss_param { label_lists: true }', [(2, 3), (2,)],
     "label_lists is for SoftmaxWithLoss and SigmoidCrossEntropyLoss"),
    ('type: "InfogainLoss" loss_param { label_lists: true }', [(2, 3), (2,), (3, 3)],
     "label_lists is for SoftmaxWithLoss"),
    (dense("SoftmaxWithLoss") + " softmax_param { axis: 0 }", [(2, 3), (2, 1)], "with the class axis 0"),
])
def test_what_does_not_fit_is_named(layer: str, shapes: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(NetError, match=re.escape(says)):
        one_layer_net(f'top: "y" {layer}', *shapes)


def test_labels_and_weights_of_a_layer_that_learns_are_refused() -> None:
    net = run(sampled("SoftmaxWithLoss"), np.zeros((2, 3)), UNITS, LABELS)
    for wanted in ([True, False, True], [True, True, True]):
        with pytest.raises(NetError, match="labels, targets and weights have no gradient"):
            net.nodes[-1].backward(net.tops[-1], wanted, net.bottoms[-1])


def test_the_kernel_refuses_places_outside_of_a_set() -> None:
    p, each = np.zeros((2, 3), np.float32), np.ones(2, np.float32)
    for place in (3, -2):
        with pytest.raises(IndexError, match=rf"place {place} is not in -1\.\.2"):
            cpu.active_set_backward(p, np.array([[0], [place]], np.int32), each, each, None, p.copy(), 2, 1.0)


def test_check_finds_nothing_to_say_about_these_layers() -> None:
    from brew.tools.check import check_net_file
    text = """layer {{ name: "in" type: "Input" top: "x" top: "unit" top: "label"
                       input_param {{ shape {{ dim: 4 dim: 5 }} shape {{ dim: 4 dim: 9 }}
                                      shape {{ dim: 4 dim: 2 }} }} }}
              layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "score"
                       inner_product_param {{ num_output: 9 }} }}
              layer {{ name: "loss" type: "{}" bottom: "score" {} bottom: "label" top: "loss" {}
                       include {{ phase: TRAIN }} }}
              layer {{ name: "p" type: "PrecisionAtK" bottom: "score" {} bottom: "label" top: "p1" }}"""
    silence = 'layer { name: "s" type: "Silence" bottom: "unit" }'
    for kind in DENSE:
        with open("net.prototxt", "w") as file:
            file.write(text.format(SAMPLED[kind], 'bottom: "unit"', "", 'bottom: "unit"'))
        assert check_net_file("net.prototxt", [pb.NetState(phase=phase) for phase in (pb.TRAIN, pb.TEST)]) == ([], [])
        with open("net.prototxt", "w") as file:
            file.write(text.format(kind, "", "loss_param { label_lists: true }", "") + silence)
        assert check_net_file("net.prototxt", [pb.NetState(phase=phase) for phase in (pb.TRAIN, pb.TEST)]) == ([], [])


def test_errors_are_of_brew(device: str) -> None:
    """Labels without a place for them: an empty set, an empty list of classes."""
    for layer, values in ((sampled("SoftmaxWithLoss"), ([[]], [[]], [[3]])), (dense("SoftmaxWithLoss"), ([[]], [[3]]))):
        with pytest.raises(BrewError, match="label 3, number 0 of its list"):
            run(layer, *values)
