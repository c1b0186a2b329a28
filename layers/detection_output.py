"""DetectionOutput: a detection net's offsets and scores as a list of boxes."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register
from .boxes import decode, read_priors


@register("DetectionOutput")
class DetectionOutputLayer(Layer):
    """Boxes with classes and scores: decoded from priors, those that overlap a better one of their class removed (Liu et al.,
    SSD, 2016, section 2.2; non-maximum suppression).

        layer { name: "detection_out" type: "DetectionOutput" bottom: "mbox_loc" bottom: "mbox_conf" bottom: "mbox_priorbox"
                top: "detection_out" include { phase: TEST }
                detection_output_param { num_classes: 21 nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE
                                         keep_top_k: 200 confidence_threshold: 0.01 } }

    Bottoms:  offsets (N, P 4), or (N, P num_classes 4) without share_location; scores (N, P num_classes), after a softmax;
              priors (1, 2, P 4).
    Top:      (1, 1, M, 7): image, class, score, xmin, ymin, xmax, ymax, in units of the image; by image and class, best first.
              Without any box, a row for each image: its number and six times -1.

    code_type              how offsets mean a box: CORNER (default), CENTER_SIZE, CORNER_SIZE.
    nms_param, keep_top_k  boxes of a class are looked at (top_k) and removed (nms_threshold, eta); boxes kept of an image.
    """

    bottoms, in_place = exactly(3), False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.detection_output_param
        self.require(p.num_classes > 0, "num_classes must be given, and be more than 0", "detection_output_param")
        self.require(p.nms_param.nms_threshold >= 0, "nms_threshold must not be negative", "detection_output_param.nms_param")
        self.require(0 < p.nms_param.eta <= 1, f"eta is more than 0 and at most 1, found {p.nms_param.eta:g}", "detection_output_param.nms_param")
        self.locations = 1 if p.share_location else p.num_classes

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.detection_output_param
        self.images, self.priors = self.items(bottom[0]), bottom[2].count // 8
        self.require(bottom[2].count == self.priors * 8, f"priors need the shape (1, 2, 4 P), found {bottom[2].shape}", "bottom[2]")
        self.require(bottom[0].count == self.images * self.priors * self.locations * 4, f"{self.priors} priors need {self.priors * self.locations * 4} offsets for each image, found the shape {bottom[0].shape}", "bottom")
        self.require(bottom[1].count == self.images * self.priors * p.num_classes, f"{self.priors} priors need {self.priors * p.num_classes} scores for each image, found the shape {bottom[1].shape}", "bottom[1]")
        top[0].reshape(1, 1, 1, 7)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.detection_output_param
        priors, variances = read_priors(bottom[2])
        offsets = bottom[0].value.read().reshape(self.images, self.priors, self.locations, 4)
        boxes = decode(xp, offsets, priors[None, :, None], 1 if p.variance_encoded_in_target else variances[None, :, None], p.code_type)
        scores = bottom[1].value.read().reshape(self.images, self.priors, p.num_classes).transpose(0, 2, 1)
        rows = self._rows(boxes.transpose(0, 2, 1, 3), scores)
        top[0].reshape(1, 1, len(rows) or self.images, 7)
        if not len(rows):
            rows = np.full((self.images, 7), -1, np.float32)
            rows[:, 0] = np.arange(self.images)
        top[0].value.write()[0, 0] = xp.asarray(rows)

    def _rows(self, boxes: Any, scores: Any) -> np.ndarray:
        """The top's rows, from boxes (N, locations, P, 4) and scores (N, classes, P)."""
        xp, p = self.device.xp, self.param.detection_output_param
        classes = [c for c in range(p.num_classes) if c != p.background_label_id]
        scores = xp.ascontiguousarray(scores[:, classes])                   # (N, K, P)
        order = xp.argsort(-scores, axis=2, kind="stable")
        if p.nms_param.top_k > 0:
            order = order[:, :, :p.nms_param.top_k]
        best = xp.take_along_axis(scores, order, 2)
        count = (best > p.confidence_threshold if p.HasField("confidence_threshold") else xp.ones(best.shape, bool)).sum(2)
        most = int(count.max()) if count.size else 0
        order, best = order[:, :, :most], best[:, :, :most]
        of_class = boxes if self.locations == 1 else boxes[:, classes]
        chosen = xp.ascontiguousarray(xp.take_along_axis(of_class, order[..., None], 2))        # (N, K, most, 4)
        kept = xp.zeros(order.shape, np.int32)
        if most:
            self.k.suppress(chosen.reshape(-1, most, 4), xp.ascontiguousarray(count.reshape(-1).astype(np.int32)), kept.reshape(-1, most), p.nms_param.nms_threshold, p.nms_param.eta)
        image, label, place = xp.nonzero(kept)
        score = best[image, label, place]
        if p.keep_top_k >= 0:                                              # the best of each image, whatever their class
            by_score = xp.lexsort(xp.stack([-score, image.astype(score.dtype)]))
            rank = xp.arange(len(score)) - xp.searchsorted(image[by_score], image[by_score])
            chosen_rows = xp.sort(by_score[rank < p.keep_top_k])
            image, label, place, score = (v[chosen_rows] for v in (image, label, place, score))
        rows = xp.concatenate([image[:, None], xp.asarray(np.array(classes))[label][:, None], score[:, None], chosen[image, label, place]], 1) if len(score) else xp.zeros((0, 7))
        rows = rows.get() if hasattr(rows, "get") else rows
        return np.asarray(rows, np.float32)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "a list of boxes has no gradient; put propagate_down: false here", "propagate_down")
