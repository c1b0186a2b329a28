"""SampledSoftmaxWithLoss, SampledSigmoidCrossEntropyLoss: the losses of a layer that computes some of its outputs."""
from __future__ import annotations

from ..engine.layer import register
from ..proto import brew_pb2 as pb
from .active_set import SampledLossLayer


@register("SampledSoftmaxWithLoss")
class SampledSoftmaxWithLossLayer(SampledLossLayer):
    """The cross entropy of the softmax over each item's active set with its labels, which share the target evenly.

        layer { name: "loss" type: "SampledSoftmaxWithLoss" bottom: "score" bottom: "unit" bottom: "label" top: "loss" }

    Bottoms:  scores (N, S); the units that have them (N, S), -1 for padding, whose scores do not matter and get the
              gradient 0; labels (N, L), each item's units, padded by -1; optionally a weight for each item (N).
              S and L may change from batch to batch.
    Tops:     the loss, a scalar; optionally each item's loss (N).

    loss_param.normalization    the sum is divided by: VALID (default) the items with labels, FULL and BATCH_SIZE N,
                                NONE 1, PRE_FIXED pre_fixed_normalizer; never by less than 1. Weights do not change it.

    An item's loss is log(sum of e^score over its set) minus the mean score of its n labels: each has the target 1/n. A
    label that comes again in its list counts once. An item without labels has the loss 0 and no gradient. Raises
    DataError for a label that is not in its item's set; that units of a set are distinct is not checked.

    With all outputs in the set this is SoftmaxWithLoss with label_lists: true. ignore_label, class_weighting and
    label_smoothing are refused.
    """

    kernel = "active_softmax_forward"


@register("SampledSigmoidCrossEntropyLoss")
class SampledSigmoidCrossEntropyLossLayer(SampledLossLayer):
    """The cross entropy of the sigmoids of each item's active set, its labels having the target 1, the others 0.

        layer { name: "loss" type: "SampledSigmoidCrossEntropyLoss" bottom: "score" bottom: "unit" bottom: "label"
                top: "loss" }

    Bottoms, tops:  as of SampledSoftmaxWithLoss.

    loss_param.normalization    the sum over all sets is divided by: BATCH_SIZE (default) N, VALID the units in sets of
                                items with labels, FULL N S, NONE 1, PRE_FIXED pre_fixed_normalizer; never by less
                                than 1.

    An item without labels has the loss 0 and no gradient: a set that was sampled for no label says nothing. A label
    that comes again in its list counts once. Raises DataError for a label that is not in its item's set.

    With all outputs in the set this is SigmoidCrossEntropyLoss with label_lists: true. ignore_label, class_weighting
    and label_smoothing are refused.
    """

    kernel, default = "active_sigmoid_forward", pb.LossParameter.BATCH_SIZE
