"""PrecisionAtK: how many of an item's labels are among its k best scores."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.errors import DataError
from ..engine.layer import Layer, at_least, between, item_rows, register
from ..proto import brew_pb2 as pb
from ..proto import find_file
from .label_frequencies import read_label_frequencies
from .whole_numbers import integers, refuse

METRIC = pb.PrecisionParameter


@register("PrecisionAtK")
class PrecisionAtKLayer(Layer):
    """The share of the k best scores whose units are labels of the item, as the mean over all items.

        layer { name: "precision" type: "PrecisionAtK" bottom: "score" bottom: "unit" bottom: "label" top: "p1"
                top: "p3" precision_param { k: 1 k: 3 } include { phase: TEST } }

    Bottoms:  scores (N, S), the units that have them (N, S), -1 for padding, and labels (N, L), padded by -1; or
              scores (N, C) of all C outputs and labels, which then must be less than C. S and L may change from batch
              to batch.
    Tops:     a scalar for each k.

    k        default 1. At most C; more than the units of a set is allowed: those missing are misses.
    metric   PRECISION (default): hits among the k best / k.
             RECALL: hits / labels of the item.
             NDCG: the sum of 1 / log2(1 + rank) over hits, divided by that of min(k, labels) hits in the first ranks.
             PROPENSITY: PSP@k: the sum of 1 / p over all items' hits, divided by the largest possible.
    label_frequencies            for PROPENSITY: the text file that brew convert_xc writes: how many examples have each
                                 label of N. For a label of n examples p = 1 / (1 + c e^(-a log(n + b))),
                                 c = (log N - 1) (b + 1)^a (Jain, Prabhu and Varma 2016).
    propensity_a, propensity_b   a and b, default 0.55 and 1.5. Published: 0.5 and 0.4 for WikiLSHTC-325K, 0.6 and 2.6
                                 for Amazon-670K.

    Of equal scores the lower unit ranks first; a score that is NaN ranks as -infinity. Items without labels count as 0.
    A label that comes again in its list counts once. `brew test` and solvers show the mean over batches, as for
    Accuracy: that of a test is exact if its batches have equal numbers of items; PSP@k, a ratio of two sums, is exact
    only for a single batch.
    """

    bottoms, tops = between(2, 3), at_least(1)
    in_place = False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, field = self.param.precision_param, "precision_param"
        self.ks = list(p.k) or [1]
        self.require(all(self.ks), "k must be at least 1, found 0", f"{field}.k")
        self.require(len(self.ks) == len(top), f"makes one top for each k, found {len(self.ks)} k and {len(top)} tops",
                     "top")
        self.inverse: Any = None
        if p.metric != METRIC.PROPENSITY:
            self.require(not p.HasField("label_frequencies"), "label_frequencies requires metric: PROPENSITY",
                         f"{field}.label_frequencies")
            return
        self.require(p.label_frequencies, "metric: PROPENSITY requires label_frequencies", field)
        a, b = p.propensity_a, p.propensity_b
        for name, fits in (("propensity_a", 0 <= a < np.inf), ("propensity_b", 0 < b < np.inf)):
            self.require(fits, f"{name} must be {'at least' if name == 'propensity_a' else 'more than'} 0 and finite, "
                         f"found {getattr(p, name):g}", f"{field}.{name}")
        examples, counts = read_label_frequencies(find_file(p.label_frequencies, self.param.position.file))
        self.require(examples > 2, f"propensities need more than 2 training examples, found {examples}",
                     f"{field}.label_frequencies", DataError)
        # The 0 behind the last label is what -1 finds.
        self.inverse = self.device.xp.asarray(np.append(inverse_propensities(examples, counts, a, b), 0.0))

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        scores, labels = bottom[0].shape, bottom[-1].shape
        n = self.items(bottom[0])
        self.require(bool(labels) and labels[0] == n, f"there are {n} items; the shape of the labels is {labels}",
                     f"bottom[{len(bottom) - 1}]")
        if len(bottom) == 3:
            self.require(bottom[1].shape == scores, "scores and units need the same shape: the shapes are "
                         f"{scores} and {bottom[1].shape}", "bottom[1]")
        else:
            classes = item_rows(scores)[1]
            self.require(max(self.ks) <= classes, f"k must be at most {classes}, the scores of an item; found "
                         f"{max(self.ks)}", "precision_param.k")
        for blob in top:
            blob.reshape()

    def labels(self, bottom: list[Blob]) -> tuple[Any, Any]:
        """(labels (N, L) in rising order, which of them count: padding and those that come again do not)."""
        xp, memory = self.device.xp, bottom[-1].value
        label = integers(memory).reshape(item_rows(bottom[-1].shape))
        most = 2**31 if len(bottom) == 3 else item_rows(bottom[0].shape)[1]
        if self.inverse is not None:
            most = min(most, len(self.inverse) - 1)
        refuse(self, (label < -1) | (label >= most), memory, "the label at position {place} of the batch is {value}; "
               + ("only -1, padding, is negative" if most == 2**31 else f"there are {most} classes"),
               f"bottom[{len(bottom) - 1}]")
        label = xp.sort(label, 1)
        counts = label >= 0
        counts[:, 1:] &= label[:, 1:] != label[:, :-1]
        return label, counts

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, n = self.device.xp, bottom[0].shape[0]
        unit = integers(bottom[1].value) if len(bottom) == 3 else None
        if unit is not None:
            refuse(self, unit < -1, bottom[1].value, "the unit at position {place} of the batch is {value}; only -1, "
                   "padding, is negative", "bottom[1]")
        label, counts = self.labels(bottom)
        width = item_rows(bottom[0].shape)[1]
        best = xp.empty((n, min(max(self.ks), width)), np.int32)
        self.k.best_units(bottom[0].value.read(), unit, best, n, width)
        hits = ((best[:, :, None] == label[:, None, :]) & counts[:, None, :]).any(2)
        for k, blob in zip(self.ks, top):
            blob.value.write()[...] = self.score(k, hits[:, :k], best[:, :k], label, counts)

    def score(self, k: int, hits: Any, best: Any, label: Any, counts: Any) -> float:
        """The metric at k for the `best` units of each item, at most k, and the `hits` among them."""
        xp, metric, labels = self.device.xp, self.param.precision_param.metric, counts.sum(1)
        if metric == METRIC.PROPENSITY:
            own = self.inverse[xp.where(counts, label, -1)]
            largest = float(xp.sort(own, 1)[:, -k:].sum())
            found = float(self.inverse[xp.where(hits, best, -1)].sum())
            return found / largest if largest else 0.0
        if metric == METRIC.NDCG:
            gains = 1 / np.log2(np.arange(2, max(hits.shape[1], label.shape[1], 1) + 2))
            largest = xp.asarray(gains.cumsum())[xp.clip(labels, 1, k) - 1]
            each = (hits * xp.asarray(gains[:hits.shape[1]])).sum(1) / largest
        else:
            each = hits.sum(1) / (xp.maximum(labels, 1) if metric == METRIC.RECALL else k)
        return float(each.sum()) / max(len(hits), 1)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not any(propagate_down), "a precision has no gradient", "propagate_down")


def inverse_propensities(examples: int, counts: np.ndarray, a: float, b: float) -> np.ndarray:
    """1 / p of each label, from how many of the `examples` have it."""
    inverse: np.ndarray = 1.0 + (np.log(examples) - 1) * (b + 1) ** a * (counts + b) ** -a
    return inverse
