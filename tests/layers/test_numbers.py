"""Labels, rows, places and boxes that are no numbers, or none that an int holds: an error, or harmless, on every device."""
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError
from brew.kernels import cpu
from brew.layers.whole_numbers import FOREIGN, whole_numbers
from brew.tools.gradient_check import check_gradient, one_layer_net

INF, NAN = float("inf"), float("nan")
BAD = [NAN, INF, -INF, 3e38, -3e38, 1e10, -1e10, 2.0**31, 2.0**63, 5.0]
# (layer, shapes of the bottoms, the bottom with numbers, valid ones, bad values that it takes all the same)
NUMBERS: list[tuple[str, list[tuple[int, ...]], int, Any, set[float]]] = [
    ('type: "SoftmaxWithLoss" top: "y"', [(3, 5), (3,)], 1, [0, 4, 2], set()),
    ('type: "SoftmaxWithLoss" top: "y" loss_param { ignore_label: 255 }', [(3, 5, 2), (3, 2)], 1, [[0, 4], [2, 255], [1, 1]], set()),
    ('type: "SoftmaxWithLoss" top: "y" loss_param { class_weighting: [1, 2, 3, 4, 5] }', [(3, 5), (3,)], 1, [0, 4, 2], set()),
    *((f'type: "{t}" top: "y" loss_param {{ label_lists: true }}', [(3, 5), (3, 2)], 1, [[0, 4], [2, -1], [1, 1]],
       set[float]())
      for t in ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss")),
    ('type: "PrecisionAtK" top: "y"', [(3, 5), (3, 2)], 1, [[0, 4], [2, -1], [1, 1]], set()),
    ('type: "InfogainLoss" top: "y"', [(3, 5), (3,), (5, 5)], 1, [0, 4, 2], set()),
    ('type: "HingeLoss" top: "y"', [(3, 5), (3,)], 1, [0, 4, 2], set()),
    ('type: "MultinomialLogisticLoss" top: "y"', [(3, 5), (3,)], 1, [0, 4, 2], set()),
    ('type: "Accuracy" top: "y"', [(3, 5), (3,)], 1, [0, 4, 2], set()),
    ('type: "SegAccuracy" top: "y"', [(3, 5, 1, 1), (3,)], 1, [0, 4, 2], set(BAD)),                        # labels that are no class do not count
    ('type: "SigmoidCrossEntropyLoss" top: "y" loss_param { ignore_label: 255 }', [(3, 4), (3, 4)], 1, 1, set(BAD)),      # any number is a target
    ('type: "Embed" top: "y" embed_param { input_dim: 5 num_output: 3 weight_filler { type: "gaussian" } }', [(3,)], 0, [0, 4, 2], set()),
    ('type: "BatchReindex" top: "y"', [(5, 2), (3,)], 1, [0, 4, 2], set()),
    ('type: "Upsample" top: "y"', [(1, 2, 1, 1), (1, 2, 1, 1)], 1, [[[[0]], [[3]]]], set()),
    ('type: "CTCLoss" top: "y"', [(4, 3, 5), (3, 2)], 1, [[1, 2], [3, 0], [4, 4]], set()),
    ('type: "CTCLoss" top: "y"', [(4, 3, 5), (3, 2), (3,)], 2, [4, 4, 3], set()),
    ('type: "CTCGreedyDecoder" top: "y" top: "z"', [(4, 3, 5), (3, 2)], 1, [[1, 2], [3, 0], [4, 4]], set(BAD)),    # compared only
    ('type: "Filter" top: "y"', [(3, 2), (3,)], 1, [1, 0, 1], set(BAD)),                                   # not 0
]


def ready(layer: str, shapes: list[tuple[int, ...]], which: int, values: Any) -> brew.Net:
    rng = np.random.default_rng(0)
    net = one_layer_net(layer, *shapes)
    for blob in net.bottoms[-1]:
        blob.data[...] = rng.standard_normal(blob.shape)
    net.bottoms[-1][which].data[...] = values
    return net


def backward(net: brew.Net) -> None:
    for top in net.tops[-1]:
        top.diff[...] = 1
    net.backward()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("layer, shapes, which, values, takes", NUMBERS, ids=lambda v: v[:70] if isinstance(v, str) else "")
def test_a_number_that_is_none_is_an_error(layer: str, shapes: list[tuple[int, ...]], which: int, values: Any, takes: set[float], bad: float, device: str) -> None:
    net = ready(layer, shapes, which, values)
    net.forward()
    net.bottoms[-1][which].data.reshape(-1)[1] = bad
    if any(bad is t or bad == t for t in takes):
        net.forward()
    else:
        with pytest.raises(DataError, match=re.escape(f"{np.float32(bad):g}") if "Infogain" not in layer else "outside"):
            net.forward()


@pytest.mark.parametrize("bad", [*BAD, -1.0])
@pytest.mark.parametrize("layer, shapes, which, values, takes", NUMBERS, ids=lambda v: v[:70] if isinstance(v, str) else "")
def test_numbers_may_change_before_backward(layer: str, shapes: list[tuple[int, ...]], which: int, values: Any, takes: set[float], bad: float, device: str) -> None:
    """Backward reads them again and refuses what forward would (on a GPU: NaN), or goes by what forward read."""
    net = ready(layer, shapes, which, values)
    if net.layers[-1].type in ("Accuracy", "SegAccuracy", "CTCGreedyDecoder", "PrecisionAtK"):
        return                                                        # no gradient
    net.forward()
    backward(net)
    grown = [blob for blob in [*net.bottoms[-1], *net.layers[-1].blobs] if not blob.gradient.store.is_zero]
    expected = [blob.diff.copy() for blob in grown]
    net.clear_param_diffs()
    net.bottoms[-1][which].data.reshape(-1)[1] = bad
    reads_again = (net.layers[-1].type in ("SoftmaxWithLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss")
                   and "label_lists" not in layer)
    try:
        backward(net)
    except DataError:
        assert reads_again
        return
    if reads_again and net.layers[-1].type == "SoftmaxWithLoss":
        assert device in ("shim", "gpu") and np.isnan(net.bottoms[-1][0].diff).any()
    elif not reads_again:
        assert all(np.array_equal(blob.diff, e) for blob, e in zip(grown, expected))


def test_whole_numbers() -> None:
    values = np.array([*BAD, 2.0**31 - 128, -2.0**31 + 128, -0.5, 1.9, -1.9], np.float32)
    assert whole_numbers(np, values).tolist() == [FOREIGN] * 9 + [5, 2**31 - 128, -2**31 + 128, 0, 1, -1]


# ------------------------------------------------------------------------------------------------------------------- boxes

REGIONS = {"ROIPooling": "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 1 }", "PSROIPooling": "psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 1 }",
           "ROIAlign": "roi_align_param { pooled_h: 2 pooled_w: 3 spatial_scale: 1 }"}
HUGE = [(0, 0, 1e9, 1e9), (-1e9, -1e9, 1e9, 1e9), (0, 0, 3e38, 3e38), (-3e38, -3e38, 3e38, 3e38), (1e9, 1e9, -1e9, -1e9), (1e20, 1e20, 1e21, 1e21), (-1e21, 0, -1e20, 3),
        (2**31, 2**31, 2**31, 2**31), (-2**31, -2**31, 2**31, 2**31), (16777216, 0, 16777217, 3), (0, 0, 5e4, 3)]


def region_net(kind: str, shape: tuple[int, ...], boxes: Any) -> brew.Net:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 5)
    net = one_layer_net(f'type: "{kind}" top: "y" {REGIONS[kind]}', shape, boxes.shape)
    net.blobs["b0"].data[...] = np.random.default_rng(0).permutation(net.blobs["b0"].count).reshape(shape) * 0.1 + 1
    net.blobs["b1"].data[...] = boxes
    return net


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", REGIONS)
def test_a_box_that_is_no_number_is_an_error(kind: str, bad: float, column: int, device: str) -> None:
    boxes = np.array([[0, 1, 1, 5, 5], [0, 2, 2, 4, 4]], np.float32)
    boxes[1, column] = bad
    with pytest.raises(DataError) as error:
        region_net(kind, (1, 8, 6, 7), boxes).forward()
    rest = ", ".join(f"{v:g}" for v in boxes[1, 1:])
    assert (f"region 1 is of image {bad:g}; there are 1 images" if column == 0 else f"region 1 has coordinates that are not finite: {rest}") in str(error.value)


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("shape", [(2, 8, 6, 7), (2, 8, 1, 1), (2, 8, 0, 7), (2, 8, 6, 0)], ids=str)
def test_huge_boxes_take_no_longer_and_stay_inside(shape: tuple[int, ...], kind: str, device: str) -> None:
    """Results lie among the map's values, or are 0; the gradient of a mean adds up to no more than what came in."""
    net = region_net(kind, shape, [(n % 2, *box) for n, box in enumerate(HUGE)])
    y = net.forward()["y"].copy()
    x = net.blobs["b0"].data
    assert np.isfinite(y).all() and (y >= 0).all() and (y <= (x.max() if x.size else 0) * 1.0001).all()
    net.blobs["y"].diff[...] = 1
    net.backward()
    dx = net.blobs["b0"].diff
    assert np.isfinite(dx).all() and (dx >= 0).all() and dx.sum() <= y.size * 1.0001


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("box", [(-200, -300, 400, 500), (0, 0, 5000, 3), (-5000, -5000, 5000, 5000), (2, 3, 70, 4)], ids=str)
def test_boxes_far_beyond_the_map_have_right_values_and_gradients(kind: str, box: tuple[float, ...], device: str) -> None:
    """Points of which only a few lie on the map, among thousands: they are found."""
    net = region_net(kind, (1, 8, 6, 7), [(0, *box)])
    y = net.forward()["y"]
    if kind == "ROIAlign":
        assert np.allclose(y[0], aligned(net.blobs["b0"].data[0], box), rtol=2e-4, atol=1e-4)
    check_gradient(net, skip=(1,))


def aligned(x: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """ROIAlign's definition with 2 x 3 bins in double precision."""
    _, height, width = x.shape
    x1, y1, x2, y2 = box

    def weights(start: float, extent: float, bins: int, size: int) -> np.ndarray:
        side = max(extent, 1) / bins
        n = int(np.ceil(side))
        at = start + np.arange(bins)[:, None] * side + (np.arange(n) + 0.5) * side / n
        inside = (at >= -1) & (at <= size)
        low = np.clip(np.floor(np.clip(at, 0, None)), 0, size - 1)
        part = np.where(low >= size - 1, 0, np.clip(at, 0, None) - low)
        pixels = np.arange(size)
        share = (pixels == low[..., None]) * (1 - part)[..., None] + (pixels == low[..., None] + 1) * part[..., None]
        return (share * inside[..., None]).sum(1) / n

    return np.einsum("ih,jw,chw->cij", weights(y1, y2 - y1, 2, height), weights(x1, x2 - x1, 3, width), x)


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("bad", [1.0, 1e8, NAN, -1.0])
def test_the_boxes_of_forward_are_those_of_backward(kind: str, bad: float, device: str) -> None:
    net = region_net(kind, (1, 8, 6, 7), [(0, 1, 1, 5, 5)])
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    expected = net.blobs["b0"].diff.copy()
    net.blobs["b1"].data[...] = bad
    net.backward()
    assert expected.any() and np.array_equal(net.blobs["b0"].diff, expected)


@pytest.mark.parametrize("bad", [1.0, 1e8, NAN, -1.0])
@pytest.mark.parametrize("name", ["roi_pool", "psroi_pool", "roi_align"])
def test_kernels_check_the_image_of_a_region(name: str, bad: float) -> None:
    x, y, rois, winner = np.zeros((1, 4, 6, 7), np.float32), np.zeros((1, 1, 2, 2), np.float32), np.array([[bad, 0, 0, 3, 3]], np.float32), np.zeros((1, 1, 2, 2), np.int32)
    shape = (1, 1, 6, 7, 2, 2, 2 if name == "psroi_pool" else 1, 0)
    x = x if name == "psroi_pool" else x[:, :1]
    kept = [winner] if name == "roi_pool" else []
    with pytest.raises(IndexError, match="region 0 is of no image"):
        getattr(cpu, f"{name}_forward")(x, rois, y, *kept, 1.0, shape)
    with pytest.raises(IndexError, match="region 0 is of no image"):
        getattr(cpu, f"{name}_backward")(y, rois, *kept, x.copy(), 1.0, shape)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("field", ["min_size", "max_size", "aspect_ratio", "variance", "step", "offset"])
def test_prior_boxes_are_finite(field: str, bad: float) -> None:
    given = {"min_size": 3.0, "max_size": 5.0, field: bad}
    with pytest.raises(NetError, match=f"{field} must be "):
        one_layer_net('type: "PriorBox" top: "y" prior_box_param { ' + " ".join(f"{k}: {v}" for k, v in given.items()) + " }", (1, 2, 3, 3), (1, 3, 30, 30))
