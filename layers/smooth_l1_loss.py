"""SmoothL1Loss: quadratic near zero, linear beyond, for boxes."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import between, exactly, item_rows, register
from .loss import LossLayer, normalizer


def smooth_l1(xp: Any, d: Any, square: float) -> Any:
    """square d^2 / 2 where |d| < 1 / square, else |d| - 1 / (2 square)."""
    size = abs(d)
    return xp.where(size < 1 / square, square / 2 * d * d, size - 0.5 / square).astype(xp.float32)


def smooth_l1_slope(xp: Any, d: Any, square: float) -> Any:
    """The derivative of smooth_l1."""
    return xp.clip(d * square, -1, 1)


@register("SmoothL1Loss")
class SmoothL1LossLayer(LossLayer):
    """The sum of w_out f(w_in (a - b)) over all elements, divided by N, with f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2,
    else |d| - 1 / (2 sigma^2) (Girshick, Fast R-CNN, 2015, equation 3).

        layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "targets" bottom: "inside" bottom: "outside"
                top: "loss_bbox" smooth_l1_loss_param { sigma: 3 } }

    Bottoms:  a and b (N, ...), both may get gradients; optionally w_in, then optionally w_out, of their shape.
    Tops:     the loss, a scalar; optionally each item's loss (N), or (N, 1, 1, 1) if the bottoms have four axes, as R-FCN's labels.
    sigma     default 1.
    """

    bottoms, tops, compared = between(2, 4), between(1, 2), 4

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        sigma = self.param.smooth_l1_loss_param.sigma
        self.require(sigma > 0, f"sigma must be more than 0, found {sigma:g}", "smooth_l1_loss_param.sigma")
        self.square = sigma * sigma

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_batch(bottom)
        for i, blob in enumerate(bottom):
            self.require(blob.count == bottom[0].count, f"all bottoms need the same number of values: bottom 0 has the shape {bottom[0].shape}, bottom {i} {blob.shape}", f"bottom[{i}]")
        self.shape_tops(bottom, top)

    def shape_tops(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.set_items(bottom, top, (shape[0], 1, 1, 1) if len(shape) == 4 else shape[:1])

    def difference(self, bottom: list[Blob]) -> Any:
        shape = bottom[0].shape
        d = bottom[0].value.read() - bottom[1].value.read().reshape(shape)
        return d * bottom[2].value.read().reshape(shape) if len(bottom) > 2 else d

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        errors = smooth_l1(self.device.xp, self.difference(bottom), self.square)
        if len(bottom) > 3:
            errors *= bottom[3].value.read().reshape(errors.shape)
        self.finish(bottom, top, self.sum_items(errors), self.norm(bottom))

    def sum_items(self, errors: Any) -> Any:
        return errors.reshape(item_rows(errors.shape)).sum(1)

    def norm(self, bottom: list[Blob]) -> float:
        return bottom[0].shape[0]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for blob, down in zip(bottom[2:], propagate_down[2:]):
            if down:
                blob.gradient.clear()                              # weights are taken as given, as in Fast R-CNN
        d = smooth_l1_slope(self.device.xp, self.difference(bottom), self.square) * self.slope(bottom, top)
        for weights in bottom[2:]:
            d *= weights.value.read().reshape(d.shape)
        for blob, down in zip(bottom[:2], propagate_down):
            if down:
                blob.gradient.write().reshape(d.shape)[...] = d if blob is bottom[0] else -d


@register("SmoothL1LossOHEM")
class SmoothL1LossOHEMLayer(SmoothL1LossLayer):
    """SmoothL1Loss as R-FCN's online hard example mining needs it: normalised as loss_param says, with each region's loss.

        layer { name: "loss_bbox" type: "SmoothL1LossOHEM" bottom: "bbox_pred" bottom: "targets" bottom: "weights"
                top: "loss_bbox" top: "loss_each" loss_weight: 1 loss_weight: 0
                loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 } }

    Bottoms:  a and b (N, C, ...), and optionally weights of their shape for the difference.
    Tops:     the loss, a scalar; optionally the loss of each position (N, 1, ...): the sum over channels.
    normalization   as for SoftmaxWithLoss, VALID (default) and FULL both counting every position.
    """

    bottoms = between(2, 3)

    def shape_tops(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(len(shape) >= 2, f"needs channels, axis 1; the shape is {shape}", "bottom")
        self.set_items(bottom, top, (shape[0], 1, *shape[2:]))
        self.view = (shape[0], shape[1], self.count // max(shape[0], 1))

    def sum_items(self, errors: Any) -> Any:
        return errors.reshape(self.view).sum(1).reshape(-1)

    def norm(self, bottom: list[Blob]) -> float:
        return normalizer(self.param.loss_param, self.view, self.count)


@register("BoxAnnotatorOHEM")
class BoxAnnotatorOHEMLayer(LossLayer):
    """Keeps the labels and weights of the regions with the largest losses, roi_per_img for each image; the others are ignored
    (Shrivastava et al. 2016, as in R-FCN).

        layer { name: "annotate" type: "BoxAnnotatorOHEM" bottom: "rois" bottom: "loss_each" bottom: "labels" bottom: "weights"
                top: "labels_ohem" top: "weights_ohem" propagate_down: false propagate_down: false propagate_down: false
                propagate_down: false box_annotator_ohem_param { roi_per_img: 128 } }

    Bottoms:  regions (R, 5), the first value being the image; each region's loss (R); labels (R); box weights (R, ...).
    Tops:     labels, ignore_label for regions that are not kept; box weights, 0 for those. Nothing has a gradient.
    """

    is_loss = False
    bottoms, tops = exactly(4), exactly(2)

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(self.param.box_annotator_ohem_param.roi_per_img > 0, "roi_per_img must be given, and be more than 0", "box_annotator_ohem_param")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        regions = bottom[0].shape[0] if bottom[0].shape else 0
        self.require(bottom[0].count == 5 * regions, f"regions need the shape (R, 5), found {bottom[0].shape}", "bottom")
        for i in (1, 2):
            self.require(bottom[i].count == regions, f"there are {regions} regions; bottom {i} has {bottom[i].count} values", f"bottom[{i}]")
        self.require(bottom[3].shape[:1] == (regions,), f"there are {regions} regions; the weights' shape is {bottom[3].shape}", "bottom[3]")
        for blob, source in zip(top, bottom[2:]):
            blob.reshape(*source.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.box_annotator_ohem_param
        images, losses = bottom[0].value.read().reshape(-1, 5)[:, 0], bottom[1].value.read().reshape(-1)
        order = xp.lexsort(xp.stack([-losses, images]))                    # by image, then the largest loss first
        sorted_images = images[order]
        place = xp.arange(len(order)) - xp.searchsorted(sorted_images, sorted_images)
        kept = xp.empty(len(order), bool)
        kept[order] = place < p.roi_per_img
        labels, weights = bottom[2].value.read(), bottom[3].value.read()
        top[0].value.write()[...] = xp.where(kept.reshape(labels.shape), labels, xp.float32(p.ignore_label))
        top[1].value.write()[...] = weights * kept.reshape(-1, *(1,) * (weights.ndim - 1))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down, 0)
