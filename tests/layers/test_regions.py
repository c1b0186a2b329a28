"""Region pooling against the definitions in the papers, in numpy, and its gradients; and what the OHEM layers keep."""
from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor

import numpy as np
import pytest

import brew
from brew.proto import parse, pb
from brew.engine.errors import DataError
from brew.tools.gradient_check import check_gradient, one_layer_net

RNG = np.random.default_rng(3)
X = RNG.permutation(2 * 8 * 6 * 7).reshape(2, 8, 6, 7).astype(np.float32) * 0.02 - 6      # all different
# image, x1, y1, x2, y2 in pixels of an image 16 times as large: inside, the whole, one pixel, beyond the edge, turned round
ROIS = np.array([[0, 10, 20, 60, 70], [1, 0, 0, 111, 95], [0, 30, 30, 31, 31], [1, 70, 60, 200, 180], [0, 50, 50, 20, 10]], np.float32)
SCALE = 1 / 16


def rounded(v: float) -> float:
    return float(np.floor(abs(v) + 0.5) * np.sign(v))


def roi_max(x: np.ndarray, roi: np.ndarray, bins: int) -> np.ndarray:
    n, (x1, y1, x2, y2) = int(roi[0]), [rounded(v * SCALE) for v in roi[1:]]
    h, w = max(y2 - y1 + 1, 1) / bins, max(x2 - x1 + 1, 1) / bins
    out = np.zeros((x.shape[1], bins, bins), np.float32)
    for i in range(bins):
        for j in range(bins):
            rows = range(max(int(floor(i * h) + y1), 0), min(int(ceil((i + 1) * h) + y1), x.shape[2]))
            cols = range(max(int(floor(j * w) + x1), 0), min(int(ceil((j + 1) * w) + x1), x.shape[3]))
            if len(rows) and len(cols):
                out[:, i, j] = x[n][:, rows][:, :, cols].max((1, 2))
    return out


def psroi_mean(x: np.ndarray, roi: np.ndarray, bins: int) -> np.ndarray:
    n, (x1, y1, x2, y2) = int(roi[0]), [rounded(v) for v in roi[1:]]
    x1, y1, x2, y2 = x1 * SCALE, y1 * SCALE, (x2 + 1) * SCALE, (y2 + 1) * SCALE
    h, w = max(y2 - y1, 0.1) / bins, max(x2 - x1, 0.1) / bins
    channels = x.shape[1] // bins**2
    out = np.zeros((channels, bins, bins), np.float32)
    for i in range(bins):
        for j in range(bins):
            rows = range(max(floor(i * h + y1), 0), min(ceil((i + 1) * h + y1), x.shape[2]))
            cols = range(max(floor(j * w + x1), 0), min(ceil((j + 1) * w + x1), x.shape[3]))
            if len(rows) and len(cols):
                for c in range(channels):
                    out[c, i, j] = x[n, (c * bins + i) * bins + j][rows][:, cols].mean()
    return out


def align(x: np.ndarray, roi: np.ndarray, bins: int, samples: int = 0) -> np.ndarray:
    n, (x1, y1, x2, y2) = int(roi[0]), roi[1:] * SCALE
    h, w = max(y2 - y1, 1) / bins, max(x2 - x1, 1) / bins
    rows, cols = samples or ceil(h), samples or ceil(w)
    out = np.zeros((x.shape[1], bins, bins))
    for i in range(bins):
        for j in range(bins):
            for a in range(rows):
                for b in range(cols):
                    out[:, i, j] += bilinear(x[n], y1 + (i + (a + 0.5) / rows) * h, x1 + (j + (b + 0.5) / cols) * w) / (rows * cols)
    return out


def align_two(x: np.ndarray, roi: np.ndarray, bins: int) -> np.ndarray:
    return align(x, roi, bins, 2)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    fy, fx = y - top, x - left
    return (image[:, top, left] * (1 - fy) * (1 - fx) + image[:, top, left + 1] * (1 - fy) * fx
            + image[:, top + 1, left] * fy * (1 - fx) + image[:, top + 1, left + 1] * fy * fx)


LAYERS: list[tuple[str, int, Callable[[np.ndarray, np.ndarray, int], np.ndarray]]] = [
    (f'type: "ROIPooling" top: "y" roi_pooling_param {{ pooled_h: 3 pooled_w: 3 spatial_scale: {SCALE} }}', 3, roi_max),
    (f'type: "PSROIPooling" top: "y" psroi_pooling_param {{ output_dim: 2 group_size: 2 spatial_scale: {SCALE} }}', 2, psroi_mean),
    (f'type: "ROIAlign" top: "y" roi_align_param {{ pooled_h: 3 pooled_w: 3 spatial_scale: {SCALE} }}', 3, align),
    (f'type: "ROIAlign" top: "y" roi_align_param {{ pooled_h: 3 pooled_w: 3 sampling_ratio: 2 spatial_scale: {SCALE} }}', 3, align_two)]


@pytest.mark.parametrize("layer, bins, definition", LAYERS, ids=lambda v: getattr(v, "__name__", ""))
class TestRegions:
    def test_values_are_those_of_the_definition(self, layer: str, bins: int, definition: Callable[..., np.ndarray], device: str) -> None:
        net = one_layer_net(layer, X.shape, ROIS.shape)
        net.blobs["b0"].data[...], net.blobs["b1"].data[...] = X, ROIS
        net.forward()
        np.testing.assert_allclose(net.blobs["y"].data, np.stack([definition(X, roi, bins) for roi in ROIS]), rtol=1e-4, atol=1e-5)

    def test_gradient_is_that_of_the_function(self, layer: str, bins: int, definition: Callable[..., np.ndarray], device: str) -> None:
        net = one_layer_net(layer, X.shape, ROIS.shape)
        net.blobs["b0"].data[...], net.blobs["b1"].data[...] = X, ROIS
        check_gradient(net, skip=(1,), step=5e-3, most=200)

    def test_a_region_of_an_image_that_is_not_there_is_an_error(self, layer: str, bins: int, definition: Callable[..., np.ndarray]) -> None:
        net = one_layer_net(layer, X.shape, (1, 5))
        net.blobs["b1"].data[...] = [2, 0, 0, 10, 10]
        with pytest.raises(DataError, match="region 0 is of image 2; there are 2 images"):
            net.forward()


def test_hard_examples_are_kept_and_others_ignored(device: str) -> None:
    net = one_layer_net('type: "BoxAnnotatorOHEM" top: "labels" top: "weights" box_annotator_ohem_param { roi_per_img: 2 }', (6, 5), (6,), (6,), (6, 4, 1, 1))
    net.blobs["b0"].data[:, 0] = [0, 1, 0, 0, 1, 1]
    net.blobs["b1"].data[...] = [5, 1, 7, 6, 3, 2]
    net.blobs["b2"].data[...] = [1, 2, 3, 4, 5, 6]
    net.blobs["b3"].data[...] = 1
    net.forward()
    assert net.blobs["labels"].data.tolist() == [-1, -1, 3, 4, 5, 6]
    assert net.blobs["weights"].data[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_each_regions_loss_is_a_top(device: str) -> None:
    net = brew.Net(parse("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
        layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 3 } } }
        layer { name: "loss" type: "SoftmaxWithLossOHEM" bottom: "x" bottom: "l" top: "loss" top: "prob" top: "each"
                loss_weight: 1 loss_weight: 0 loss_weight: 0 loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 2 ignore_label: -1 } }""",
        pb.NetParameter()), brew.TRAIN)
    net.blobs["x"].data[...] = X[0, 0, :3, :4]
    net.blobs["l"].data[...] = [1, -1, 3]
    net.forward()
    each = -np.log(net.blobs["prob"].data[[0, 2], [1, 3]])
    np.testing.assert_allclose(net.blobs["each"].data, [each[0], 0, each[1]], rtol=1e-5)
    np.testing.assert_allclose(net.blobs["loss"].data, each.sum() / 2, rtol=1e-5)


@pytest.mark.parametrize("boxes, labels", [((5, 8, 1, 1), (5, 1, 1, 1)), ((5, 8), (5,))])
def test_each_items_losses_add_up(boxes: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """R-FCN's hard example mining adds the losses of class and box: both tops have one shape."""
    shapes = " ".join(f"shape {{ {' '.join(f'dim: {d}' for d in shape)} }}" for shape in ((5, 4, *boxes[2:]), labels, boxes, boxes))
    n = brew.Net(parse(f"""layer {{ name: "in" type: "Input" top: "score" top: "label" top: "box" top: "target" input_param {{ {shapes} }} }}
        layer {{ name: "class" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "c" top: "p" top: "each_c" loss_weight: 0 loss_weight: 0 loss_weight: 0 }}
        layer {{ name: "bbox" type: "SmoothL1Loss" bottom: "box" bottom: "target" top: "b" top: "each_b" loss_weight: 0 loss_weight: 0 }}
        layer {{ name: "sum" type: "Eltwise" bottom: "each_c" bottom: "each_b" top: "each" }}""", pb.NetParameter()), brew.TRAIN)
    rng = np.random.default_rng(0)
    for name in ("score", "box", "target"):
        n.blobs[name].data[...] = rng.normal(size=n.blobs[name].shape)
    out = n.forward()
    each_c, each_b = n.blobs["each_c"].data, n.blobs["each_b"].data
    assert out["each"].shape == labels and n.blobs["b"].data == pytest.approx(each_b.sum() / 5)
    np.testing.assert_allclose(out["each"], each_c + each_b, rtol=1e-6)
