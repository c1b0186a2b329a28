"""DetectionEvaluate: which detected boxes are right."""
from __future__ import annotations

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register
from .boxes import overlaps


@register("DetectionEvaluate")
class DetectionEvaluateLayer(Layer):
    """Matches detected boxes with true ones as Pascal VOC does: the best score first, each true box once.

        layer { name: "eval" type: "DetectionEvaluate" bottom: "detection_out" bottom: "label" top: "eval" include { phase: TEST }
                detection_evaluate_param { num_classes: 21 overlap_threshold: 0.5 } }

    Bottoms:  DetectionOutput's (1, 1, M, 7); true boxes (1, 1, G, 8): image, class, instance, corners, difficult.
    Top:      (1, 1, classes - 1 + M', 5): for each class but the background -1, class, number of true boxes, -1, -1; then for
              each detection image, class, score, 1 if it is right, 1 if it is wrong.

    overlap_threshold       a detection is right if it overlaps a true box of its class by more, default 0.5.
    evaluate_difficult_gt   false: difficult boxes are neither counted nor matched.

    brew.layers.detection_evaluate.average_precision makes a test's average precisions from the rows of all its batches.
    """

    bottoms, in_place = exactly(2), False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, field = self.param.detection_evaluate_param, "detection_evaluate_param"
        self.require(p.num_classes > 1, "num_classes must be given, and be more than 1", field)
        self.require(p.overlap_threshold > 0, "overlap_threshold must be more than 0", f"{field}.overlap_threshold")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(bottom[0].count % 7 == 0, f"detections need the shape (1, 1, M, 7), found {bottom[0].shape}", "bottom")
        self.require(bottom[1].count % 8 == 0, f"true boxes need the shape (1, 1, G, 8), found {bottom[1].shape}", "bottom[1]")
        top[0].reshape(1, 1, self.param.detection_evaluate_param.num_classes - 1 + bottom[0].count // 7, 5)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """On the host: a few hundred rows, box by box."""
        p = self.param.detection_evaluate_param
        detections, truth = (v.get() if hasattr(v, "get") else v for v in (b.value.read() for b in bottom))
        detections, truth = detections.reshape(-1, 7), truth.reshape(-1, 8)
        detections, truth = detections[detections[:, 1] >= 0], truth[truth[:, 0] >= 0]
        counts = truth if p.evaluate_difficult_gt else truth[truth[:, 7] == 0]
        classes = [c for c in range(p.num_classes) if c != p.background_label_id]
        rows: list[list[float]] = [[-1, c, int((counts[:, 1] == c).sum()), -1, -1] for c in classes]
        for image in np.unique(detections[:, 0]):
            for c in classes:
                mine = detections[(detections[:, 0] == image) & (detections[:, 1] == c)]
                true = truth[(truth[:, 0] == image) & (truth[:, 1] == c)]
                rows += self._judge(mine[np.argsort(-mine[:, 2], kind="stable")], true)
        top[0].reshape(1, 1, len(rows), 5)
        top[0].value.write()[0, 0] = self.device.xp.asarray(np.array(rows, np.float32))

    def _judge(self, detections: np.ndarray, truth: np.ndarray) -> list[list[float]]:
        """The rows of one image and class, best score first."""
        p, found, rows = self.param.detection_evaluate_param, set[int](), []
        overlap = overlaps(np, detections[:, 3:].clip(0, 1), truth[:, 3:7])
        for d, row in zip(detections, overlap):
            best = int(row.argmax()) if len(row) else -1
            hit = best >= 0 and row[best] > p.overlap_threshold
            if hit and truth[best, 7] and not p.evaluate_difficult_gt:
                rows.append([d[0], d[1], d[2], 0.0, 0.0])
                continue
            right = hit and best not in found
            found.add(best)
            rows.append([d[0], d[1], d[2], float(right), float(not right)])
        return rows

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "an evaluation has no gradient; put propagate_down: false here", "propagate_down")


def average_precision(rows: np.ndarray) -> dict[int, float]:
    """The average precision of each class from the layer's rows (n, 5) of a whole test: the area under precision over
    recall, precision being made monotonic (Pascal VOC 2010 and later). Classes without true boxes are left out."""
    found = {}
    for c in np.unique(rows[:, 1]).astype(int):
        mine = rows[rows[:, 1] == c]
        positives = mine[mine[:, 0] == -1][:, 2].sum()
        hits = mine[mine[:, 0] >= 0]
        hits = hits[np.argsort(-hits[:, 2], kind="stable")]
        if not positives:
            continue
        right, wrong = hits[:, 3].cumsum(), hits[:, 4].cumsum()
        precision = right / np.maximum(right + wrong, 1e-12)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        found[int(c)] = float((hits[:, 3] * envelope).sum() / positives)
    return found
