"""What every loss can do: a weight for each item, and each item's own loss; label smoothing, class weights, soft targets."""
from __future__ import annotations

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

RNG = np.random.default_rng(2)
WEIGHTS = np.array([0.5, 2, 0, 1], np.float32)
# type and parameters, shapes of the compared bottoms, tops before the items' losses
LOSSES = [('type: "SoftmaxWithLoss"', [(4, 5), (4,)], ["loss", "prob"]), ('type: "EuclideanLoss"', [(4, 3), (4, 3)], ["loss"]),
          ('type: "SigmoidCrossEntropyLoss"', [(4, 3), (4, 3)], ["loss"]), ('type: "HingeLoss" hinge_loss_param { norm: L2 }', [(4, 5), (4,)], ["loss"]),
          ('type: "MultinomialLogisticLoss"', [(4, 5), (4,)], ["loss"]), ('type: "ContrastiveLoss"', [(4, 3), (4, 3), (4,)], ["loss"]),
          ('type: "InfogainLoss"', [(4, 5), (4,), (5, 5)], ["loss", "prob"])]


def build(layer: str, shapes: list[tuple[int, ...]], tops: list[str]) -> brew.Net:
    net = one_layer_net(layer + "".join(f' top: "{top}"' for top in tops), *shapes)
    for i, shape in enumerate(shapes):
        net.blobs[f"b{i}"].data[...] = RNG.uniform(0.1, 0.9, shape) if len(shape) > 1 else WEIGHTS if i == len(shapes) - 1 and len(shapes) > 2 else RNG.integers(0, 2, shape)
    return net


@pytest.mark.parametrize("layer, shapes, tops", LOSSES, ids=lambda v: v.split('"')[1] if isinstance(v, str) else "")
def test_items_have_losses_and_weights(layer: str, shapes: list[tuple[int, ...]], tops: list[str], device: str) -> None:
    """With weights, the loss is the weighted sum of the items' losses over the same divisor, and so are the gradients."""
    plain, weighed = build(layer, shapes, [*tops, "each"]), build(layer, [*shapes, (4,)], [*tops, "each"])
    for i in range(len(shapes)):
        weighed.blobs[f"b{i}"].data[...] = plain.blobs[f"b{i}"].data
    plain.forward()
    weighed.forward()
    each = plain.blobs["each"].data
    divisor = each.sum() / plain.blobs["loss"].data
    np.testing.assert_allclose(weighed.blobs["each"].data, each, rtol=1e-6)
    np.testing.assert_allclose(divisor, 4, rtol=1e-4)
    np.testing.assert_allclose(weighed.blobs["loss"].data, (each * WEIGHTS).sum() / 4, rtol=1e-5)
    plain.backward()
    weighed.backward()
    np.testing.assert_allclose(weighed.blobs["b0"].diff, plain.blobs["b0"].diff * WEIGHTS[:, None], rtol=1e-4, atol=1e-7)


def cross_entropy(more: str, labels: np.ndarray, scores: np.ndarray, *weights: np.ndarray) -> tuple[float, np.ndarray]:
    shapes = [scores.shape, labels.shape, *(w.shape for w in weights)]
    net = one_layer_net(f'type: "SoftmaxWithLoss" top: "y" top: "p" top: "each" loss_param {{ {more} }}', *shapes)
    for i, values in enumerate((scores, labels, *weights)):
        net.blobs[f"b{i}"].data[...] = values
    net.forward()
    return float(net.blobs["y"].data), net.blobs["each"].data.copy()


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


SCORES, LABELS = RNG.normal(size=(3, 5, 2)).astype(np.float32), np.array([[0, 4], [1, 1], [2, 0]])


def test_smoothing_spreads_a_share_of_the_label(device: str) -> None:
    target = 0.9 * np.eye(5)[LABELS].transpose(0, 2, 1) + 0.1 / 5
    loss, each = cross_entropy("label_smoothing: 0.1", LABELS, SCORES)
    np.testing.assert_allclose(each, -(target * log_softmax(SCORES)).sum(1), rtol=1e-5)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    soft, each_soft = cross_entropy("", target.astype(np.float32), SCORES)
    assert soft == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(each_soft, each, rtol=1e-5)


def test_class_weights_multiply_the_losses_of_their_labels(device: str) -> None:
    own = -np.take_along_axis(log_softmax(SCORES), LABELS[:, None], 1)[:, 0]
    w = np.array([1, 2, 0.5, 0, 3])
    loss, each = cross_entropy("class_weighting: [1, 2, 0.5, 0, 3]", LABELS, SCORES)
    np.testing.assert_allclose(each, own, rtol=1e-5)
    assert loss == pytest.approx((own * w[LABELS]).sum() / 6, rel=1e-5)
    assert cross_entropy("class_weighting: [1, 2, 0.5, 0, 3] weight_by_label_freqs: false", LABELS, SCORES)[0] == pytest.approx(own.mean(), rel=1e-5)
    items = np.array([1, 0, 2], np.float32)
    assert cross_entropy("class_weighting: [1, 2, 0.5, 0, 3]", LABELS, SCORES, items)[0] == pytest.approx((own * w[LABELS] * items[:, None]).sum() / 6, rel=1e-5)


@pytest.mark.parametrize("layer, shapes, says", [
    ('type: "SoftmaxWithLoss" top: "y" loss_param { label_smoothing: 1 }', [(2, 3), (2,)], "label_smoothing is at least 0 and less than 1, found 1"),
    ('type: "SoftmaxWithLoss" top: "y" loss_param { ignore_label: 2 }', [(2, 3), (2, 3)], "ignore_label is for labels; bottom 1 has soft targets"),
    ('type: "SoftmaxWithLoss" top: "y"', [(2, 3, 4), (2, 4), (3,)], "there are 8 items and 3 weights"),
    ('type: "EuclideanLoss" top: "y" top: "each" loss_weight: 1 loss_weight: 1', [(2, 3), (2, 3)], "the items' losses have no gradient of their own: their loss_weight is 0")])
def test_what_is_wrong_is_named(layer: str, shapes: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(NetError, match=says):
        one_layer_net(layer, *shapes)


def test_a_wrong_number_of_class_weights_is_named() -> None:
    with pytest.raises(NetError, match="class_weighting needs a weight for each of the 5 classes, found 2"):
        cross_entropy("class_weighting: [1, 2]", LABELS, SCORES)


def test_a_score_that_is_no_number_is_seen_in_the_loss(device: str) -> None:
    for bad in (np.nan, np.inf):
        scores = SCORES.copy()
        scores[1, 2, 1] = bad
        assert np.isnan(cross_entropy("", LABELS, scores)[0])
    assert np.isnan(cross_entropy("", LABELS[:, 0], np.full((3, 5), np.nan, np.float32))[0])


def test_weights_come_from_the_net_and_get_no_gradient() -> None:
    """A weight that depends on something that learns is an error unless propagate_down says that it is meant."""
    text = """layer { name: "x" type: "Input" top: "x" top: "l" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
              layer { name: "w" type: "Reduction" bottom: "s" top: "w" reduction_param { axis: 1 } }
              layer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "l" bottom: "w" top: "loss" %s }"""
    net = brew.Net(parse(text % "", pb.NetParameter()), brew.TRAIN)
    net.forward()
    with pytest.raises(NetError, match="labels, targets and weights have no gradient"):
        net.backward()
    net = brew.Net(parse(text % "propagate_down: true propagate_down: false propagate_down: false", pb.NetParameter()), brew.TRAIN)
    net.forward()
    net.backward()
