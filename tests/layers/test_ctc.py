"""CTC against its definition: the sum over every way to write the label."""
from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

import brew
from brew.engine.errors import DataError
from brew.tools.gradient_check import check_gradient, one_layer_net

STEPS, CLASSES, BLANK = 4, 3, 1
LABELS = [[0, 2], [0, 0], [2, -1], [-1, -1], [0, 0]]          # of 2, 2, 1 and no symbols; the last one has three steps: 0 blank 0
COUNTED = [4, 4, 4, 4, 3]


def collapse(path: tuple[int, ...]) -> list[int]:
    return [c for c, _ in groupby(path) if c != BLANK]


def loss_of(scores: np.ndarray, label: list[int], steps: int) -> float:
    p = np.exp(scores[:steps].astype(np.float64))
    p /= p.sum(1, keepdims=True)
    wanted = [c for c in label if c >= 0]
    return -float(np.log(sum(np.prod([p[t, c] for t, c in enumerate(path)]) for path in product(range(CLASSES), repeat=steps) if collapse(path) == wanted)))


def ctc_net(top: str = 'top: "y" top: "each"') -> brew.Net:
    net = one_layer_net(f'type: "CTCLoss" {top} ctc_loss_param {{ blank_label: {BLANK} }}', (STEPS, len(LABELS), CLASSES), (len(LABELS), 2), (len(LABELS),))
    net.blobs["b0"].data[...] = np.random.default_rng(0).normal(size=net.blobs["b0"].shape)
    net.blobs["b1"].data[...] = LABELS
    net.blobs["b2"].data[...] = COUNTED
    return net


def test_the_loss_is_that_of_all_paths(device: str) -> None:
    net = ctc_net()
    net.forward()
    expected = [loss_of(net.blobs["b0"].data[:, n], label, steps) for n, (label, steps) in enumerate(zip(LABELS, COUNTED))]
    np.testing.assert_allclose(net.blobs["each"].data, expected, rtol=1e-5)
    np.testing.assert_allclose(net.blobs["y"].data, np.mean(expected), rtol=1e-5)


def test_the_gradient_is_that_of_the_loss(device: str) -> None:
    check_gradient(ctc_net('top: "y"'), skip=(1, 2), most=100)


def test_a_label_that_does_not_fit_has_no_loss_and_no_gradient(device: str) -> None:
    net = ctc_net()
    net.blobs["b2"].data[4] = 2                               # 0 blank 0 needs three
    net.forward()
    net.backward()
    assert net.blobs["each"].data[4] == 0 and not net.blobs["b0"].diff[:, 4].any() and net.blobs["b0"].diff[:, 0].any()


def test_a_symbol_beyond_the_classes_is_an_error() -> None:
    net = ctc_net()
    net.blobs["b1"].data[0] = [0, 3]
    with pytest.raises(DataError, match="a label has the symbol 3; there are 3 classes"):
        net.forward()


def test_the_decoder_merges_and_drops_blanks(device: str) -> None:
    net = one_layer_net('type: "CTCGreedyDecoder" top: "y" top: "accuracy"', (5, 2, 3), (2, 3))
    for n, path in enumerate([[1, 1, 0, 1, 2], [0, 2, 2, 0, 0]]):
        net.blobs["b0"].data[range(5), n, path] = 1
    net.blobs["b1"].data[...] = [[1, 1, 2], [2, 1, 0]]
    net.forward()
    assert net.blobs["y"].data.tolist() == [[1, 1, 2, -1, -1], [2, -1, -1, -1, -1]]
    assert float(net.blobs["accuracy"].data) == 0.5
