"""MultiBoxLoss: what a detection net's offsets and scores should have been."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import exactly, register
from ..proto import brew_pb2 as pb
from .boxes import decode, encode, overlaps, read_priors
from .loss import LossLayer, normalizer
from .smooth_l1_loss import smooth_l1, smooth_l1_slope
from .whole_numbers import refuse, whole_numbers

PARAM = pb.MultiBoxLossParameter


@register("MultiBoxLoss")
class MultiBoxLossLayer(LossLayer):
    """The loss of SSD: matches the true boxes with priors, compares the offsets of those, and the classes of those and of the
    worst of the others (Liu et al. 2016, section 2.2; hard negative mining).

        layer { name: "mbox_loss" type: "MultiBoxLoss" bottom: "mbox_loc" bottom: "mbox_conf" bottom: "mbox_priorbox" bottom: "label"
                top: "mbox_loss" multibox_loss_param { num_classes: 21 neg_pos_ratio: 3 neg_overlap: 0.5 code_type: CENTER_SIZE } }

    Bottoms:  offsets (N, P 4), or (N, P num_classes 4) without share_location; scores (N, P num_classes), before a softmax;
              priors (1, 2, P 4); true boxes (1, 1, G, 8): image, class, instance, xmin, ymin, xmax, ymax, difficult. The first
              two get gradients.
    Top:      the loss, a scalar: (loc_weight * loss of offsets + loss of classes) / matches (or loss_param.normalization's).

    match_type      BIPARTITE: each true box takes its best prior; PER_PREDICTION (default): then priors also take the true box
                    that they overlap by more than overlap_threshold.
    mining_type     MAX_NEGATIVE (default): of the unmatched priors that overlap every box by less than neg_overlap, the
                    neg_pos_ratio for each match with the largest class loss count as background; NONE: all of them do.
    loc_loss_type   SMOOTH_L1 (default) or L2.      conf_loss_type   SOFTMAX (default) or LOGISTIC.
    """

    compared = 4
    bottoms, tops = exactly(4), exactly(1)

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, field = self.param.multibox_loss_param, "multibox_loss_param"
        self.require(p.num_classes > 0, "num_classes must be given, and be more than 0", field)
        self.require(p.background_label_id < p.num_classes, f"background_label_id must be one of the {p.num_classes} classes", f"{field}.background_label_id")
        self.require(not p.bp_inside, "bp_inside: true is not supported", f"{field}.bp_inside")
        self.mining = p.mining_type if p.HasField("mining_type") or not p.HasField("do_neg_mining") else PARAM.MAX_NEGATIVE if p.do_neg_mining else PARAM.NONE
        self.require(self.mining != PARAM.HARD_EXAMPLE, "mining_type: HARD_EXAMPLE is not supported; there are MAX_NEGATIVE and NONE", f"{field}.mining_type")
        self.locations = 1 if p.share_location else p.num_classes

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        classes = self.param.multibox_loss_param.num_classes
        self.images, self.priors = self.items(bottom[0]), bottom[2].count // 8
        for i, per_prior in enumerate((self.locations * 4, classes)):
            self.require(bottom[i].count == self.images * self.priors * per_prior, f"{self.priors} priors need {self.priors * per_prior} values for each image, found the shape {bottom[i].shape}", f"bottom[{i}]")
        self.require(bottom[3].count % 8 == 0, f"true boxes need the shape (1, 1, G, 8), found {bottom[3].shape}", "bottom[3]")
        self.set_items(bottom, top, ())

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, p = self.device.xp, self.param.multibox_loss_param
        priors, variances = read_priors(bottom[2])
        variance = 1 if p.encode_variance_in_target else variances
        offsets = bottom[0].value.read().reshape(self.images, self.priors, self.locations, 4)
        scores = bottom[1].value.read().reshape(self.images, self.priors, p.num_classes)
        truth = bottom[3].value.read().reshape(-1, 8)
        labels = xp.full((self.images, self.priors), p.background_label_id, np.int64)      # what each prior should say
        matched = xp.zeros((self.images, self.priors), bool)
        near = xp.zeros((self.images, self.priors), np.float32)                             # the largest overlap with a true box
        target = xp.zeros((self.images, self.priors, 4), np.float32)
        for n in range(self.images):
            mine = truth[(truth[:, 0] == n) & (p.use_difficult_gt | (truth[:, 7] == 0))]
            if not len(mine):
                continue
            classes = whole_numbers(xp, mine[:, 1])
            bad = (classes < 0) | (classes >= p.num_classes) | (classes == p.background_label_id)
            refuse(self, bad, mine[:, 1], f"a true box has the class {{value}}; there are {p.num_classes}, {p.background_label_id} being background", "bottom[3]")
            base = priors if p.use_prior_for_matching else decode(xp, offsets[n, :, 0], priors, variance, p.code_type)
            match, near[n] = self._match(overlaps(xp, mine[:, 3:7], base), base)
            matched[n] = match >= 0
            labels[n] = xp.where(match >= 0, p.background_label_id + 1 if p.map_object_to_agnostic else classes[match], p.background_label_id)
            target[n] = encode(xp, mine[xp.maximum(match, 0), 3:7], priors, variance, p.code_type)
        self.where, self.labels = xp.nonzero(matched), labels
        place = (*self.where, labels[self.where] if self.locations > 1 else 0)
        self.place, matches = place, int(matched.sum())
        d = offsets[place] - target[self.where]
        self.d_offsets = d if p.loc_loss_type == PARAM.L2 else smooth_l1_slope(xp, d, 1)
        loc = (d * d / 2).sum() if p.loc_loss_type == PARAM.L2 else smooth_l1(xp, d, 1).sum()
        each, self.d_scores = self._class_losses(scores, labels)
        self.used = matched | self._negatives(each, matched, near)
        total = p.loc_weight * loc + xp.where(self.used, each, 0).sum()
        self.divisor = normalizer(self.param.loss_param, (self.images, 1, self.priors), matches)
        top[0].value.write()[...] = total / self.divisor

    def _match(self, overlap: Any, priors: Any) -> tuple[Any, Any]:
        """(each prior's true box or -1, its largest overlap), from the overlaps (G, P)."""
        xp, p = self.device.xp, self.param.multibox_loss_param
        usable = xp.ones(overlap.shape[1], bool)
        if p.ignore_cross_boundary_bbox:
            usable = ((priors >= 0) & (priors <= 1)).all(1)
        overlap = xp.where((overlap > 1e-6) & usable, overlap, 0)
        near, match = overlap.max(0), xp.full(overlap.shape[1], -1)
        left = overlap.copy()
        for _ in range(len(overlap)):                                      # the best pair of all, then the best of the rest, ...
            box, prior = divmod(int(left.argmax()), left.shape[1])
            if left[box, prior] <= 0:
                break
            match[prior] = box
            left[box], left[:, prior] = 0, 0
        if p.match_type == PARAM.PER_PREDICTION:
            match = xp.where((match < 0) & (near >= p.overlap_threshold), overlap.argmax(0), match)
        near = xp.where(usable, near, xp.inf)                              # no negatives either
        return match, near

    def _class_losses(self, scores: Any, labels: Any) -> tuple[Any, Any]:
        """(each prior's loss (N, P), its gradient (N, P, classes))."""
        xp, p = self.device.xp, self.param.multibox_loss_param
        onehot = labels[..., None] == xp.arange(p.num_classes)
        if p.conf_loss_type == PARAM.LOGISTIC:
            each = (xp.maximum(scores, 0) - scores * onehot + xp.log1p(xp.exp(-abs(scores)))).sum(2)
            return each, 1 / (1 + xp.exp(-scores)) - onehot
        probabilities = xp.empty_like(scores)
        self.k.softmax_forward(xp.ascontiguousarray(scores), probabilities, self.images * self.priors, p.num_classes, 1)
        own = xp.take_along_axis(probabilities, labels[..., None], 2)[..., 0]
        return -xp.log(xp.maximum(own, xp.finfo(xp.float32).tiny)), probabilities - onehot

    def _negatives(self, each: Any, matched: Any, near: Any) -> Any:
        """The unmatched priors that count as background (N, P)."""
        xp, p = self.device.xp, self.param.multibox_loss_param
        free = ~matched & ~xp.isinf(near)
        if self.mining == PARAM.NONE:
            return free
        free &= near < p.neg_overlap
        wanted = xp.minimum((matched.sum(1) * p.neg_pos_ratio).astype(int), free.sum(1))
        order = xp.argsort(xp.where(free, -each, xp.inf), axis=1, kind="stable")
        chosen = xp.zeros(free.shape, bool)
        chosen[xp.arange(self.images)[:, None], order] = xp.arange(self.priors) < wanted[:, None]
        return chosen

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.refuse(propagate_down, 2)
        factor = self.device.xp.float32(float(top[0].gradient.read()) / self.divisor)
        if propagate_down[0]:
            d = bottom[0].gradient.write()
            d[...] = 0
            d.reshape(self.images, self.priors, self.locations, 4)[self.place] = self.d_offsets * (factor * self.param.multibox_loss_param.loc_weight)
        if propagate_down[1]:
            bottom[1].gradient.write().reshape(self.d_scores.shape)[...] = self.d_scores * self.used[..., None] * factor
