"""SSD's layers: priors, boxes that come out as they went in, suppression, and the loss of matched boxes."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.engine.errors import DataError
from brew.layers.boxes import decode, encode, overlaps
from brew.proto import parse, pb
from brew.tools.gradient_check import check_gradient, one_layer_net

RNG = np.random.default_rng(5)
CODES = ("CORNER", "CENTER_SIZE", "CORNER_SIZE")


def boxes(n: int) -> np.ndarray:
    low = RNG.uniform(0, 0.6, (n, 2))
    return np.concatenate([low, low + RNG.uniform(0.1, 0.4, (n, 2))], 1).astype(np.float32)


def priors_blob(values: np.ndarray, variance: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)) -> np.ndarray:
    return np.stack([values.ravel(), np.tile(variance, len(values))])[None].astype(np.float32)


def test_priors_are_those_of_the_paper(device: str) -> None:
    net = one_layer_net('type: "PriorBox" top: "y" prior_box_param { min_size: 4.7 max_size: 9 aspect_ratio: 2 aspect_ratio: 1 variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 }',
                        (1, 3, 2, 3), (1, 3, 20, 60))
    net.forward()
    y = net.blobs["y"].data
    assert y.shape == (1, 2, 2 * 3 * 4 * 4)                   # square, square of sqrt(4 * 9) = 6, ratios 2 and 1/2
    found = y[0, 0].reshape(2, 3, 4, 4)
    half = np.array([(4, 4), (6, 6), (4 * 2**0.5, 4 / 2**0.5), (4 / 2**0.5, 4 * 2**0.5)]) / 2
    for row in range(2):
        for col in range(3):
            center = np.array([(col + 0.5) * 20, (row + 0.5) * 10])
            np.testing.assert_allclose(found[row, col], np.concatenate([center - half, center + half], 1) / [60, 20, 60, 20], rtol=1e-5)
    np.testing.assert_allclose(y[0, 1].reshape(-1, 4), np.tile([0.1, 0.2, 0.3, 0.4], (24, 1)), rtol=1e-6)


@pytest.mark.parametrize("code", CODES)
def test_encoding_is_undone_by_decoding(code: str) -> None:
    a, p, v, number = boxes(9), boxes(9), np.array([0.1, 0.1, 0.2, 0.2]), getattr(pb.PriorBoxParameter, code)
    np.testing.assert_allclose(decode(np, encode(np, a, p, v, number), p, v, number), a, atol=1e-6)


def test_overlap_is_intersection_over_union() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], float)
    assert overlaps(np, a, np.array([[1, 1, 3, 3], [0, 0, 2, 2]], float)).tolist() == [[1 / 7, 1], [0, 0]]


def output_net(priors: int, classes: int, images: int, more: str = "") -> brew.Net:
    return one_layer_net(f'type: "DetectionOutput" top: "y" detection_output_param {{ num_classes: {classes} code_type: CENTER_SIZE {more} }}',
                         (images, priors * 4), (images, priors * classes), (1, 2, priors * 4), phase=pb.TEST)


def naive_output(truth: np.ndarray, scores: np.ndarray, threshold: float, nms: float, keep: int, eta: float) -> list[list[float]]:
    """The definition: for each image and class the best box, then the best that overlaps none of those, ..."""
    rows: list[list[float]] = []
    for n in range(len(scores)):
        found = []
        for c in range(1, scores.shape[2]):
            limit, kept = nms, []
            for k in np.argsort(-scores[n, :, c], kind="stable"):
                if scores[n, k, c] > threshold and all(overlaps(np, truth[n, k][None], truth[n, j][None])[0, 0] <= limit for j in kept):
                    kept.append(k)
                    limit = limit * eta if eta < 1 and limit > 0.5 else limit
            found += [[n, c, scores[n, k, c], *truth[n, k]] for k in kept]
        best = sorted(found, key=lambda row: -row[2])[:keep]
        rows += [row for row in found if row in best]
    return rows


@pytest.mark.parametrize("eta", [1, 0.9])
def test_boxes_are_suppressed_by_the_definition(eta: float, device: str) -> None:
    priors, classes, images = 40, 3, 2
    net = output_net(priors, classes, images, f"nms_param {{ nms_threshold: 0.6 eta: {eta} }} confidence_threshold: 0.2 keep_top_k: 15")
    base, truth, scores = boxes(priors), np.stack([boxes(priors) for _ in range(images)]), RNG.uniform(0, 1, (images, priors, classes)).astype(np.float32)
    offsets = encode(np, truth, base, np.array([0.1, 0.1, 0.2, 0.2]), pb.PriorBoxParameter.CENTER_SIZE)
    for i, values in enumerate((offsets, scores, priors_blob(base))):
        net.blobs[f"b{i}"].data[...] = values.reshape(net.blobs[f"b{i}"].shape)
    net.forward()
    np.testing.assert_allclose(net.blobs["y"].data[0, 0], naive_output(truth, scores, 0.2, 0.6, 15, eta), rtol=1e-3, atol=1e-5)


def test_without_a_box_every_image_has_a_row_of_minus_one(device: str) -> None:
    net = output_net(3, 2, 2, "confidence_threshold: 0.5")
    net.blobs["b2"].data[...] = priors_blob(boxes(3))
    net.forward()
    assert net.blobs["y"].data[0, 0].tolist() == [[0] + [-1] * 6, [1] + [-1] * 6]


PRIORS = np.array([[0, 0, 0.4, 0.4], [0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9], [0.6, 0, 1, 0.3], [0, 0.6, 0.3, 1], [0.4, 0.1, 0.7, 0.4]], np.float32)
TRUTH = np.array([[0, 1, 0, 0, 0, 0.4, 0.42, 0], [0, 2, 0, 0.55, 0.5, 0.9, 0.95, 0], [1, 2, 0, 0.05, 0.65, 0.3, 1, 0]], np.float32)


def loss_net(more: str = "") -> brew.Net:
    net = one_layer_net(f'type: "MultiBoxLoss" top: "y" multibox_loss_param {{ num_classes: 3 code_type: CENTER_SIZE {more} }}',
                        (2, 24), (2, 18), (1, 2, 24), (1, 1, 3, 8))
    net.blobs["b0"].data[...], net.blobs["b1"].data[...] = RNG.normal(size=(2, 24)), RNG.normal(size=(2, 18))
    net.blobs["b2"].data[...], net.blobs["b3"].data[...] = priors_blob(PRIORS), TRUTH[None, None]
    return net


def test_the_loss_is_that_of_the_matches_and_the_worst_negatives(device: str) -> None:
    net = loss_net("neg_pos_ratio: 1")
    net.forward()
    offsets, scores = net.blobs["b0"].data.reshape(2, 6, 4), net.blobs["b1"].data.reshape(2, 6, 3)
    logs = scores - np.log(np.exp(scores).sum(2, keepdims=True))
    matches = {0: {0: 0, 2: 1}, 1: {4: 2}}                     # by eye: prior 1 overlaps the first box by less than a half
    total = 0.0
    for n, match in matches.items():
        for prior, box in match.items():
            d = offsets[n, prior] - encode(np, TRUTH[box, 3:7], PRIORS[prior], np.array([0.1, 0.1, 0.2, 0.2]), pb.PriorBoxParameter.CENTER_SIZE)
            total += np.where(abs(d) < 1, d * d / 2, abs(d) - 0.5).sum() - logs[n, prior, int(TRUTH[box, 1])]
        free = sorted((-logs[n, k, 0] for k in range(6) if k not in match), reverse=True)
        total += sum(free[:len(match)])
    np.testing.assert_allclose(net.blobs["y"].data, total / 3, rtol=1e-4)


@pytest.mark.parametrize("more", ["", "conf_loss_type: LOGISTIC loc_loss_type: L2 loc_weight: 2", "mining_type: NONE match_type: BIPARTITE", "neg_pos_ratio: 1 encode_variance_in_target: true"])
def test_the_gradient_is_that_of_the_loss(more: str, device: str) -> None:
    check_gradient(loss_net(more), skip=(2, 3), step=1e-3, tolerance=1e-2, most=100)       # a small step: mining must choose the same


def test_offsets_for_each_class_are_those_of_the_matched_class(device: str) -> None:
    net = one_layer_net('type: "MultiBoxLoss" top: "y" multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE share_location: false }', (2, 72), (2, 18), (1, 2, 24), (1, 1, 3, 8))
    net.blobs["b2"].data[...], net.blobs["b3"].data[...] = priors_blob(PRIORS), TRUTH[None, None]
    net.forward()
    net.backward()
    touched = np.argwhere(net.blobs["b0"].diff.reshape(2, 6, 3, 4).any(3)).tolist()
    assert touched == [[0, 0, 1], [0, 2, 2], [1, 4, 2]]


def test_a_box_of_no_class_is_an_error() -> None:
    net = loss_net()
    net.blobs["b3"].data[0, 0, 1, 1] = 3
    with pytest.raises(DataError, match="a true box has the class 3; there are 3"):
        net.forward()


def test_a_small_ssd_learns_where_a_square_is() -> None:
    """End to end: priors, loss and output, on images with one bright square of one of two sizes."""
    text = """
        layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 1 dim: 16 dim: 16 } } }
        layer { name: "label" type: "Input" top: "label" include { phase: TRAIN } input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 16 kernel_size: 5 pad: 2 stride: 2 weight_filler { type: "msra" } } }
        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
        layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2" convolution_param { num_output: 32 kernel_size: 5 pad: 2 stride: 2 weight_filler { type: "msra" } } }
        layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
        layer { name: "loc" type: "Convolution" bottom: "conv2" top: "loc" convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
        layer { name: "loc_p" type: "Permute" bottom: "loc" top: "loc_p" permute_param { order: 0 order: 2 order: 3 order: 1 } }
        layer { name: "loc_f" type: "Flatten" bottom: "loc_p" top: "loc_f" }
        layer { name: "conf" type: "Convolution" bottom: "conv2" top: "conf" convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
        layer { name: "conf_p" type: "Permute" bottom: "conf" top: "conf_p" permute_param { order: 0 order: 2 order: 3 order: 1 } }
        layer { name: "conf_f" type: "Flatten" bottom: "conf_p" top: "conf_f" }
        layer { name: "priors" type: "PriorBox" bottom: "conv2" bottom: "data" top: "priors" prior_box_param { min_size: 4 max_size: 9 variance: 0.1 } }
        layer { name: "loss" type: "MultiBoxLoss" bottom: "loc_f" bottom: "conf_f" bottom: "priors" bottom: "label" top: "loss" include { phase: TRAIN }
                multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE } }
        layer { name: "conf_r" type: "Reshape" bottom: "conf_f" top: "conf_r" include { phase: TEST } reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
        layer { name: "prob" type: "Softmax" bottom: "conf_r" top: "prob" include { phase: TEST } softmax_param { axis: 2 } }
        layer { name: "out" type: "DetectionOutput" bottom: "loc_f" bottom: "prob" bottom: "priors" top: "out" include { phase: TEST }
                detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 1 confidence_threshold: 0.3 nms_param { nms_threshold: 0.4 } } }"""
    solver = brew.get_solver(pb.SolverParameter(net_param=parse(text, pb.NetParameter()), type="Adam", base_lr=0.005, momentum=0.9, lr_policy="fixed", random_seed=1, max_iter=1))
    rng = np.random.default_rng(0)

    def draw(data: np.ndarray) -> np.ndarray:
        data[...], found = rng.uniform(0, 0.2, data.shape), []
        for n in range(len(data)):
            kind, size = (1, 4) if rng.uniform() < 0.5 else (2, 7)
            x, y = rng.integers(0, 16 - size, 2)
            data[n, 0, y:y + size, x:x + size] = 1
            found.append([n, kind, 0, x / 16, y / 16, (x + size) / 16, (y + size) / 16, 0])
        return np.array(found, np.float32)

    for _ in range(300):
        solver.net.blobs["label"].data[0, 0] = draw(solver.net.blobs["data"].data)
        solver.step(1)
    test = brew.Net(parse(text, pb.NetParameter()), brew.TEST)
    test.share_with(solver.net)
    truth = draw(test.blobs["data"].data)
    test.forward()
    out = test.blobs["out"].data[0, 0]
    assert out[:, :2].tolist() == truth[:, :2].tolist()
    assert overlaps(np, out[:, 3:], truth[:, 3:7]).diagonal().mean() > 0.7
