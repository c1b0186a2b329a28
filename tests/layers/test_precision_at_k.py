"""PrecisionAtK and the file of label frequencies: against the formulas, and against napkinXC where it is installed."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError
from brew.layers.label_frequencies import read_label_frequencies
from brew.layers.precision_at_k import inverse_propensities
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

RNG = np.random.default_rng(0)
METRICS = ["PRECISION", "RECALL", "NDCG", "PROPENSITY"]
LABELS, EXAMPLES = 30, 1000
FREQUENCIES = np.arange(LABELS) ** 2


def write_frequencies(path: str = "frequencies.txt") -> None:
    Path(path).write_text(f"{EXAMPLES} 50 {LABELS}\n" + "".join(f"{c}\n" for c in FREQUENCIES))


def metrics(metric: str, ks: list[int], *bottoms: Any, more: str = "") -> list[float]:
    """The layer's tops."""
    if metric == "PROPENSITY":
        write_frequencies()
        more += ' label_frequencies: "frequencies.txt"'
    tops = " ".join(f'top: "p{i}"' for i in range(len(ks)))
    k = " ".join(f"k: {k}" for k in ks)
    net = one_layer_net(f'type: "PrecisionAtK" {tops} precision_param {{ {k} metric: {metric} {more} }}',
                        *(np.shape(b) for b in bottoms), phase=brew.TEST)
    for i, values in enumerate(bottoms):
        net.blobs[f"b{i}"].data[...] = values
    net.forward()
    return [float(net.blobs[f"p{i}"].data) for i in range(len(ks))]


def ranked(score: np.ndarray, unit: np.ndarray) -> list[int]:
    """The units in order."""
    return [int(u) for _, u in sorted((-float(s), int(u)) for s, u in zip(score, unit) if u >= 0)]


def definition(metric: str, k: int, score: np.ndarray, unit: np.ndarray, label: np.ndarray) -> float:
    inverse = 1 + (np.log(EXAMPLES) - 1) * 2.5**0.55 * np.exp(-0.55 * np.log(FREQUENCIES + 1.5))
    found, largest = [], []
    for s, u, own in zip(score, unit, (set(row[row >= 0].tolist()) for row in label)):
        hits = [b in own for b in ranked(s, u)[:k]]
        if metric == "PRECISION":
            found.append(sum(hits) / k)
        elif metric == "RECALL":
            found.append(sum(hits) / len(own) if own else 0.0)
        elif metric == "NDCG":
            best = sum(1 / np.log2(i + 2) for i in range(min(k, len(own))))
            found.append(sum(h / np.log2(i + 2) for i, h in enumerate(hits)) / best if own else 0.0)
        else:
            found.append(sum(h * inverse[b] for h, b in zip(hits, ranked(s, u))))
            largest.append(sum(sorted(inverse[list(own)])[-k:]))
    return sum(found) / (sum(largest) if metric == "PROPENSITY" else len(score))


def batch(n: int = 40, width: int = LABELS, labels: int = 6) -> tuple[np.ndarray, ...]:
    """(scores with ties, all units in order, labels of lists of all lengths, in which some come again)."""
    score = RNG.integers(0, 12, (n, width)) / 4
    label = RNG.integers(0, LABELS, (n, labels))
    label[RNG.random((n, labels)) < 0.4] = -1
    label[0] = -1
    return score, np.tile(np.arange(width), (n, 1)), label


KS = [1, 3, 5, 17]


@pytest.mark.parametrize("metric", METRICS)
def test_dense_scores_agree_with_the_formulas(metric: str, device: str) -> None:
    score, unit, label = batch()
    expected = [definition(metric, k, score, unit, label) for k in KS]
    np.testing.assert_allclose(metrics(metric, KS, score, label), expected, rtol=1e-6)
    assert 0 < min(expected) and max(expected) < 1


@pytest.mark.parametrize("metric", METRICS)
def test_active_sets_agree_with_the_formulas(metric: str, device: str) -> None:
    """Of 12 units in random order, some of them padding with the best scores of all."""
    score, _, label = batch(width=12)
    unit = np.stack([RNG.permutation(LABELS)[:12] for _ in range(40)])
    unit[RNG.random(unit.shape) < 0.3] = -1
    score[unit < 0] = RNG.choice([9.0, np.nan, np.inf], (unit < 0).sum())
    expected = [definition(metric, k, score, unit, label) for k in KS]
    np.testing.assert_allclose(metrics(metric, KS, score, unit, label), expected, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 130, 1000])
def test_the_best_of_many_are_found(width: int, device: str) -> None:
    score = np.round(RNG.standard_normal((9, width)), 1)
    unit = np.stack([RNG.permutation(width) for _ in range(9)])
    label = np.array([ranked(s, u)[:3] + [-1] * 3 for s, u in zip(score, unit)])[:, :3]
    n = min(3, width)
    assert metrics("PRECISION", [n], score, unit, label) == [1]
    dense = np.take_along_axis(score, unit.argsort(1), 1)
    assert metrics("PRECISION", [n], dense, label) == [1]
    assert metrics("PRECISION", [n], -dense, label)[0] < 1 or width == 1


def test_of_equal_scores_the_lower_unit_ranks_first(device: str) -> None:
    score, unit = np.zeros((1, 4)), [[7, 3, -1, 5]]
    assert [metrics("PRECISION", [1], score, unit, [[u]]) for u in (3, 5, 7)] == [[1], [0], [0]]
    assert [metrics("RECALL", [2], score, unit, [[u]]) for u in (3, 5, 7)] == [[1], [1], [0]]
    assert metrics("PRECISION", [1, 2, 3], np.zeros((1, 3)), [[0]]) == pytest.approx([1, 1 / 2, 1 / 3])


def test_nan_ranks_as_minus_infinity(device: str) -> None:
    score = [[np.nan, -np.inf, -1e30, np.inf]]
    assert [metrics("RECALL", [1, 2, 3, 4], score, [[u]]) for u in (3, 2, 0, 1)] == [
        [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_missing_scores_of_a_set_are_misses(device: str) -> None:
    label = [[4, 2]]
    for k in (2, 5, 2**32 - 1):
        assert metrics("PRECISION", [k], [[1, 2]], [[4, 2]], label) == pytest.approx([2 / k])
    assert metrics("RECALL", [9], [[1, 2]], [[4, -1]], label) == [0.5]
    assert metrics("NDCG", [9], [[1, 2]], [[4, 2]], label) == [1]
    assert metrics("PRECISION", [1], np.zeros((1, 0)), np.zeros((1, 0)), label) == [0]


def test_padding_is_never_a_hit(device: str) -> None:
    assert metrics("PRECISION", [1], [[5, 1]], [[-1, -1]], [[-1, -1]]) == [0]


def test_items_without_labels_count_as_zero(device: str) -> None:
    score, label = [[2, 1], [2, 1]], [[0], [-1]]
    assert [metrics(m, [1], score, label) for m in ("PRECISION", "RECALL", "NDCG")] == [[0.5]] * 3
    assert metrics("PROPENSITY", [1], score, label) == [1]          # of the best attainable
    assert [metrics(m, [1], score, [[-1], [-1]]) for m in METRICS] == [[0]] * 4


def test_k_is_one_if_none_is_given(device: str) -> None:
    net = one_layer_net('type: "PrecisionAtK" top: "p"', (1, 2), (1, 1))
    net.blobs["b0"].data[...] = [[1, 2]]
    net.blobs["b1"].data[...] = 1
    assert float(net.forward()["p"]) == 1


@pytest.mark.parametrize("metric, name", [("PRECISION", "precision_at_k"), ("RECALL", "recall_at_k"),
                                          ("NDCG", "ndcg_at_k"), ("PROPENSITY", "psprecision_at_k")])
def test_napkinxc_agrees(metric: str, name: str) -> None:
    """Without ties, which it breaks otherwise. It takes lists of distinct labels, empty ones too."""
    napkin = pytest.importorskip("napkinxc.metrics")
    score = RNG.permutation(40 * LABELS).reshape(40, LABELS).astype(float)
    label = batch()[2]
    truth = [sorted(set(row[row >= 0].tolist())) for row in label]
    given = (inverse_propensities(EXAMPLES, FREQUENCIES, 0.55, 1.5),) if metric == "PROPENSITY" else ()
    expected = getattr(napkin, name)(truth, [ranked(s, np.arange(LABELS)) for s in score], *given, k=5)
    np.testing.assert_allclose(metrics(metric, [1, 2, 3, 4, 5], score, label), expected, rtol=1e-6)


def test_propensities_agree_with_napkinxc() -> None:
    napkin = pytest.importorskip("napkinxc.metrics")
    labels = [RNG.permutation(LABELS)[:RNG.integers(0, 9)].tolist() for _ in range(50)]
    labels.append([LABELS - 1])
    counts = np.bincount(np.concatenate(labels).astype(int), minlength=LABELS)
    for a, b in ((0.55, 1.5), (0.5, 0.4), (0.6, 2.6)):
        np.testing.assert_allclose(inverse_propensities(51, counts, a, b),
                                   napkin.Jain_et_al_inverse_propensity(labels, a, b), rtol=1e-12)


def test_published_a_and_b_change_the_result(device: str) -> None:
    score, _, label = batch()
    found = {metrics("PROPENSITY", [3], score, label, more=m)[0]
             for m in ("", "propensity_a: 0.6 propensity_b: 2.6", "propensity_a: 0.5 propensity_b: 0.4")}
    assert len(found) == 3


def test_brew_test_shows_the_mean_over_batches(capsys: pytest.CaptureFixture[str]) -> None:
    """As of Accuracy: each batch weighs the same. Batches alternate between a hit and a miss."""
    from brew.tools.cli import main
    import h5py
    with h5py.File("x.h5", "w") as file:
        file["score"], file["label"] = np.tile([[1.0, 0.0]], (4, 1)), np.array([[0], [0], [1], [1]])
    Path("list.txt").write_text("x.h5\n")
    Path("net.prototxt").write_text(
        'layer { name: "x" type: "HDF5Data" top: "score" top: "label" '
        'hdf5_data_param { source: "list.txt" batch_size: 2 } } '
        'layer { name: "p" type: "PrecisionAtK" bottom: "score" bottom: "label" top: "p1" }')
    assert main(["test", "-model", "net.prototxt", "-iterations", "2"]) == 0
    said = capsys.readouterr().err
    assert "Batch 0, p1 = 1" in said and "Batch 1, p1 = 0" in said and re.search(r"\bp1 = 0\.5$", said, re.M)


@pytest.mark.parametrize("given, shapes, says", [
    ("k: 3", [(2, 2), (2, 1)], "k must be at most 2, the scores of an item; found 3"),
    ("k: 0", [(2, 2), (2, 1)], "k must be at least 1, found 0"),
    ("k: 1 k: 2", [(2, 2), (2, 1)], "makes one top for each k, found 2 k and 1 tops"),
    ("metric: PROPENSITY", [(2, 2), (2, 1)], "metric: PROPENSITY requires label_frequencies"),
    ('label_frequencies: "f"', [(2, 2), (2, 1)], "label_frequencies requires metric: PROPENSITY"),
    ('metric: PROPENSITY label_frequencies: "f" propensity_b: 0', [(2, 2), (2, 1)],
     "propensity_b must be more than 0 and finite, found 0"),
    ('metric: PROPENSITY label_frequencies: "f" propensity_a: inf', [(2, 2), (2, 1)],
     "propensity_a must be at least 0 and finite, found inf"),
    ("", [(2, 2), (3, 1)], "there are 2 items; the shape of the labels is (3, 1)"),
    ("", [(2, 2), ()], "there are 2 items; the shape of the labels is ()"),
    ("", [(2, 2), (2, 3), (2, 1)], "scores and units need the same shape: the shapes are (2, 2) and (2, 3)"),
])
def test_what_does_not_fit_is_named(given: str, shapes: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(NetError, match=re.escape(says)):
        one_layer_net(f'type: "PrecisionAtK" top: "p" precision_param {{ {given} }}', *shapes)


@pytest.mark.parametrize("bottoms, says", [
    (([[1, 2]], [[2]]), "the label at position 0 of the batch is 2; there are 2 classes"),
    (([[1, 2]], [[0, -2]]), "the label at position 1 of the batch is -2; there are 2 classes"),
    (([[1, 2]], [[0, -3]], [[0]]), "the unit at position 1 of the batch is -3; only -1, padding, is negative"),
    (([[1, 2]], [[0, np.nan]], [[0]]), "the unit at position 1 of the batch is nan"),
    (([[1, 2]], [[0, 7]], [[-2]]), "the label at position 0 of the batch is -2; only -1, padding, is negative"),
    (([[1, 2]], [[0, 7]], [[1e10]]), "the label at position 0 of the batch is 1e+10"),
])
def test_a_number_that_is_wrong_is_named(bottoms: Any, says: str, device: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        metrics("PRECISION", [1], *bottoms)


def test_a_label_beyond_the_frequencies_is_named(device: str) -> None:
    with pytest.raises(DataError, match="the label at position 1 of the batch is 30; there are 30 classes"):
        metrics("PROPENSITY", [1], np.zeros((1, 40)), [[3, 30]])
    assert metrics("PROPENSITY", [1], [[9, 1]], [[30, 2]], [[2]]) == [0]        # a unit without a frequency is a miss


def test_it_has_no_gradient() -> None:
    net = one_layer_net('type: "PrecisionAtK" top: "p"', (2, 3), (2, 1))
    with pytest.raises(NetError, match="a precision has no gradient"):
        net.nodes[-1].backward(net.tops[-1], [True, False], net.bottoms[-1])


def test_export_leaves_it_out() -> None:
    pytest.importorskip("onnx")
    from brew.tools.onnx_graph import build
    text = """layer { name: "in" type: "Input" top: "x" top: "label"
                      input_param { shape { dim: 4 dim: 5 } shape { dim: 4 dim: 2 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 9 } }
              layer { name: "p" type: "PrecisionAtK" bottom: "y" bottom: "label" top: "p1" }
              layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "y" bottom: "label" top: "loss"
                      loss_param { label_lists: true } }"""
    model, left_out = build(brew.Net(parse(text, pb.NetParameter()), brew.TEST, seed=1))
    assert left_out == ["p", "loss"] and {node.op_type for node in model.graph.node} == {"Gemm", "Identity"}


# ------------------------------------------------------------------------------------------------- label frequencies

def test_frequencies_are_read() -> None:
    for first in ("5", "5 9 3"):
        Path("f").write_bytes(first.encode() + b"\r\n5\n 0\n2")
        examples, counts = read_label_frequencies("f")
        assert examples == 5 and counts.dtype == np.int64 and counts.tolist() == [5, 0, 2]
    Path("f").write_text("0 0 0\n")
    assert read_label_frequencies(Path("f"))[1].shape == (0,)


@pytest.mark.parametrize("text, says", [
    ("", "f:1: the first line must be the number of examples"), ("examples 3\n", "f:1: the first line must be"),
    ("3 4 -1\n", "f:1: the first line must be"),
    ("3 4 2\n1\nx\n", "f:3: a label's count must lie between 0 and 3, the number of examples; found 'x'"),
    ("3 4 2\n4\n1\n", "f:2: a label's count"), ("3\n-1\n1\n", "f:2: a label's count"),
    ("3\n\n1\n", "f:2: a label's count"),
    ("3 4 2\n1\n2\n3\n", "f:1: the first line promises 2 labels; 3 counts follow"),
    ("3 4 9\n1\n2\n", "f:1: the first line promises 9 labels; 2 counts follow"),
    ("3 4 1\n\xff\n", "f:2: a label's count"), ("3 4 1\n\u0663\n", "f:2: a label's count"),
])
def test_a_damaged_file_is_named_with_its_line(text: str, says: str) -> None:
    Path("f").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_label_frequencies("f")
    assert str(error.value).startswith(says)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match="label frequencies"):
        read_label_frequencies("nowhere.txt")


def test_frequencies_of_too_few_examples_are_refused() -> None:
    Path("f").write_text("2 4 1\n1\n")
    with pytest.raises(DataError, match="propensities need more than 2 training examples, found 2"):
        one_layer_net('type: "PrecisionAtK" top: "p" precision_param { metric: PROPENSITY label_frequencies: "f" }',
                      (1, 1), (1, 1))
