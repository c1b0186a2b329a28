"""ROIPooling, PSROIPooling, ROIAlign: features of fixed size from regions of an image."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError, ShapeError
from ..engine.layer import Layer, exactly, register
from ..kernels import cpu
from .windows import MOST

MOST_SAMPLES = int(cpu.most_samples)     # points of a bin's side


class RegionLayer(Layer):
    """Bottoms: a feature map (N, C, H, W), and R regions (R, 5): the image's number, x1, y1, x2, y2 in pixels of the image.

    NaN and infinity in a region are an error; finite regions may lie anywhere. Backward uses the regions that forward read.
    """

    bottoms, in_place = exactly(2), False

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def set_shape(self, bottom: list[Blob], top: list[Blob], channels: int, bins: tuple[int, int], scale: float, group: int = 1, samples: int = 0) -> None:
        """`channels` of the top, `bins` (rows, columns), and what the kernels take."""
        shape, regions = bottom[0].shape, bottom[1].shape
        self.require(len(shape) == 4, f"pools images (N, C, H, W); the bottom's shape is {shape}", "bottom")
        self.require(len(regions) >= 2 and bottom[1].count == 5 * regions[0], f"regions need the shape (R, 5): image, x1, y1, x2, y2; found {regions}", "bottom[1]")
        field = {"ROIPooling": "roi_pooling_param.pooled_h", "PSROIPooling": "psroi_pooling_param.group_size"}.get(self.type, "roi_align_param.pooled_h")
        self.require(bins[0] * bins[1] <= MOST, f"{bins[0]} x {bins[1]} bins are too many: there must be fewer than 2^31", field, ShapeError)
        top[0].reshape(regions[0], channels, *bins)
        self.args: tuple[Any, ...] = (float(scale), (regions[0], channels, *shape[2:], *bins, group, samples))

    def regions(self, bottom: list[Blob]) -> Any:
        """The regions (R, 5). Raises DataError for one of an image that is not in the batch, or with NaN or Inf."""
        regions, images, xp = bottom[1].value.read().reshape(-1, 5), bottom[0].shape[0], self.device.xp
        wrong = ~((regions[:, 0] >= 0) & (regions[:, 0] < images) & xp.isfinite(regions).all(1))
        if bool(wrong.any()):
            place = int(wrong.argmax())
            image, *box = (float(v) for v in regions[place])
            self.require(0 <= image < images, f"region {place} is of image {image:g}; there are {images} images", "bottom[1]", DataError)
            self.require(False, f"region {place} has coordinates that are not finite: {', '.join(f'{v:g}' for v in box)}", "bottom[1]", DataError)
        self.checked = regions.copy()                      # for backward: the user may write others into the blob
        return regions

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[1]:
            bottom[1].gradient.clear()                     # regions are taken as given, as in Fast R-CNN
        if propagate_down[0]:
            self.differentiate(top[0].gradient.read(), self.checked, bottom[0].gradient.write())

    def differentiate(self, dy: Any, regions: Any, dx: Any) -> None: ...


@register("ROIPooling")
class ROIPoolingLayer(RegionLayer):
    """The largest value in each bin of each region (Girshick, Fast R-CNN, 2015, section 2.1).

        layer { name: "roi_pool5" type: "ROIPooling" bottom: "conv5" bottom: "rois" top: "pool5"
                roi_pooling_param { pooled_h: 6 pooled_w: 6 spatial_scale: 0.0625 } }

    Bottoms:  (N, C, H, W); regions (R, 5): image, x1, y1, x2, y2, which are taken as given.      Top:  (R, C, pooled_h, pooled_w).

    Corners are rounded to pixels of the feature map, both included; a region has at least one pixel; neighbouring bins may
    share one. A bin outside of the feature map gives 0.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.roi_pooling_param
        self.require(p.pooled_h > 0 and p.pooled_w > 0, "pooled_h and pooled_w must be given, and be more than 0", "roi_pooling_param")
        self.set_shape(bottom, top, bottom[0].shape[1] if len(bottom[0].shape) > 1 else 0, (p.pooled_h, p.pooled_w), p.spatial_scale)
        self.winner: Any = None

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.winner is None:
            self.winner = self.device.empty(top[0].count, np.int32)
        self.k.roi_pool_forward(bottom[0].value.read(), self.regions(bottom), top[0].value.write(), self.winner, *self.args)

    def differentiate(self, dy: Any, regions: Any, dx: Any) -> None:
        self.k.roi_pool_backward(dy, regions, self.winner, dx, *self.args)


@register("PSROIPooling")
class PSROIPoolingLayer(RegionLayer):
    """The mean of each bin, every bin from a channel of its own (Dai et al., R-FCN, 2016, section 2).

        layer { name: "psroi" type: "PSROIPooling" bottom: "rfcn_cls" bottom: "rois" top: "psroi"
                psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 } }

    Bottoms:  (N, output_dim * group_size^2, H, W); regions (R, 5), which are taken as given.
    Top:      (R, output_dim, group_size, group_size). A bin outside of the feature map gives 0.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape = self.param.psroi_pooling_param, bottom[0].shape
        for field in ("spatial_scale", "output_dim", "group_size"):
            self.require(getattr(p, field) > 0, f"{field} must be given, and be more than 0", "psroi_pooling_param")
        channels = p.output_dim * p.group_size**2
        self.require(len(shape) == 4 and shape[1] == channels, f"output_dim {p.output_dim} and group_size {p.group_size} need {channels} channels; the bottom's shape is {shape}", "bottom")
        self.set_shape(bottom, top, p.output_dim, (p.group_size, p.group_size), p.spatial_scale, p.group_size)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.k.psroi_pool_forward(bottom[0].value.read(), self.regions(bottom), top[0].value.write(), *self.args)

    def differentiate(self, dy: Any, regions: Any, dx: Any) -> None:
        self.k.psroi_pool_backward(dy, regions, dx, *self.args)


@register("ROIAlign")
class ROIAlignLayer(RegionLayer):
    """The mean of points in each bin, interpolated between pixels: nothing is rounded (He et al., Mask R-CNN, 2017, section 3).

        layer { name: "align" type: "ROIAlign" bottom: "conv5" bottom: "rois" top: "pool5"
                roi_align_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 } }

    Bottoms:  (N, C, H, W); regions (R, 5): image, x1, y1, x2, y2, which are taken as given.      Top:  (R, C, pooled_h, pooled_w).
    sampling_ratio   points of a bin's side, at most 1024; 0 (default): its size in pixels, rounded up.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.roi_align_param
        self.require(p.pooled_h > 0 and p.pooled_w > 0, "pooled_h and pooled_w must be given, and be more than 0", "roi_align_param")
        self.require(p.sampling_ratio <= MOST_SAMPLES, f"sampling_ratio must be at most {MOST_SAMPLES}, found {p.sampling_ratio}", "roi_align_param.sampling_ratio")
        self.set_shape(bottom, top, bottom[0].shape[1] if len(bottom[0].shape) > 1 else 0, (p.pooled_h, p.pooled_w), p.spatial_scale, samples=p.sampling_ratio)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.k.roi_align_forward(bottom[0].value.read(), self.regions(bottom), top[0].value.write(), *self.args)

    def differentiate(self, dy: Any, regions: Any, dx: Any) -> None:
        self.k.roi_align_backward(dy, regions, dx, *self.args)
