"""Extents at the end of the range of ints: refused with the field's name, or computed right."""
from __future__ import annotations

import re

import numpy as np
import pytest

from brew.engine.blob import Blob
from brew.engine.errors import BrewError, ShapeError
from brew.tools.gradient_check import one_layer_net

IMAGE = (1, 2, 8, 8)
TOP = 'top: "y"'
LARGE = [2**31 - 1, 2**31 - 2, 2**31 - 9, 2**32 - 1]      # 2^31 - 9: the image and its window are more than an int together
CONV = "num_output: 2 kernel_size: 3"
# (type, its parameters with a large number in the place of %d, the field that the message names)
SLIDING = [("Convolution", "engine: CAFFE"), ("Convolution", ""), ("Deconvolution", ""), ("Im2col", "")]
FIELDS = [
    ("Pooling", "pooling_param { kernel_size: 2 stride: %d }", "stride"),
    ("Pooling", "pooling_param { kernel_size: 2 stride_h: 1 stride_w: %d }", "stride"),
    ("Pooling", "pooling_param { pool: AVE kernel_size: %d pad: 1 }", "kernel_size"),
    ("Pooling", "pooling_param { pool: AVE kernel_size: %d pad: 1073741823 }", "kernel_size|pad"),
    *((kind, f"convolution_param {{ {engine} {CONV} {field}: %d }}", names) for kind, engine in SLIDING
      for field, names in (("stride", "stride"), ("pad", "pad"), ("pad: 1073741823 dilation", "dilation|pad"))),
    ("Im2col", "convolution_param { kernel_size: %d pad: 1073741823 }", "kernel_size|pad"),
    ("LRN", "lrn_param { local_size: %d }", "local_size"),
    ("LRN", "lrn_param { local_size: %d norm_region: WITHIN_CHANNEL }", "local_size"),
    ("SPP", "spp_param { pyramid_height: %d }", "pyramid_height"),
    ("ROIAlign", "roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 sampling_ratio: %d }", "sampling_ratio"),
    *((kind, f"{name}_param {{ pooled_h: %d pooled_w: 2 spatial_scale: 1 }}", "pooled_h|bins")
      for kind, name in (("ROIPooling", "roi_pooling"), ("ROIAlign", "roi_align"))),
    ("ROIPooling", "roi_pooling_param { pooled_h: 65536 pooled_w: %d spatial_scale: 1 }", "bins"),
]


@pytest.mark.parametrize("regions", [0, 1])
@pytest.mark.parametrize("value", LARGE)
@pytest.mark.parametrize("kind, params, field", FIELDS, ids=lambda v: str(v)[:60])
def test_an_extent_beyond_ints_is_refused_by_its_name(kind: str, params: str, field: str, value: int, regions: int,
                                                      device: str) -> None:
    if "ROI" in kind:
        shapes: list[tuple[int, ...]] = [IMAGE, (regions, 5)]
    elif regions == 0:
        shapes = [(0, *IMAGE[1:])]                            # no items: the top's count, 0, says nothing about its extents
    else:
        shapes = [IMAGE]
    if "local_size" in params:
        value |= 1
    with pytest.raises(BrewError) as error:
        net = one_layer_net(f'type: "{kind}" {TOP} {params % value}', *shapes)
        net.forward()
    said = rf"\b({field}) \d+ is too large|\b({field}) must be at most|\d x \d+ bins are too many|leaves nothing of the result"
    assert re.search(said, str(error.value))


def test_the_message_says_what_is_too_large() -> None:
    with pytest.raises(ShapeError) as error:
        one_layer_net(f'type: "Pooling" {TOP} pooling_param {{ kernel_size: 2 stride: 2147483647 }}', IMAGE)
    assert str(error.value).endswith('layer "l" (type "Pooling"): stride 2147483647 is too large: an image\'s side (8 pixels), its padding, '
                                     "the window and the stride must add up to less than 2^31 pixels")


@pytest.mark.parametrize("size", [40000, 46341, 50000, 65536, 100000, 2**20])
def test_a_mean_over_a_large_window_is_right(size: int, device: str) -> None:
    """46341^2 is the first area beyond an int."""
    net = one_layer_net(f'type: "Pooling" {TOP} pooling_param {{ pool: AVE kernel_size: {size} pad: {size // 2} stride: {size} }}', (1, 1, 8, 8))
    net.blobs["b0"].data[...] = 1
    first = min(size - size // 2, 8)                          # rows of the image in the first window
    assert np.isclose(net.forward()["y"].ravel()[0], first * first / size**2, rtol=1e-5, atol=0)
    net.blobs["y"].diff[...] = 0
    net.blobs["y"].diff[0, 0, 0, 0] = 1
    net.backward()
    assert np.isclose(net.blobs["b0"].diff[0, 0, 0, 0], 1 / size**2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [40001, 46341, 65537])
def test_lrn_within_a_large_window_is_right(size: int, device: str) -> None:
    net = one_layer_net(f'type: "LRN" {TOP} lrn_param {{ local_size: {size} alpha: {float(size)**2:g} beta: 1 norm_region: WITHIN_CHANNEL }}', (1, 1, 8, 8))
    net.blobs["b0"].data[...] = 1
    assert np.allclose(net.forward()["y"], 1 / 65, rtol=1e-4)                    # 64 values of 1 in each window


@pytest.mark.parametrize("shape", [(0, 2**31), (2**31, 0), (0, -1)], ids=str)
def test_no_extent_of_a_blob_is_beyond_ints(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="no blob can have the shape"):
        Blob(shape)
