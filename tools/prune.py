"""Pruning: whole channels leave a net, and everything behind them becomes narrower."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..engine.errors import WeightsError, fail, require
from ..proto import brew_pb2 as pb
from .surgery import Model, require_known

Channels = np.ndarray                                        # numbers of those that stay, ascending

PASSING = {"AbsVal", "BNLL", "Dropout", "ELU", "Exp", "LRN", "Log", "Pooling", "Power", "ReLU", "ReLU6", "Sigmoid", "Silence", "Split", "TanH", "Threshold"}
OF_CHANNELS = {"BN", "BatchNorm", "Bias", "PReLU", "Scale"}   # their blobs have a value for each channel


@dataclass
class Cuts:
    """What is to be removed: (layer, blob, axis) -> what stays; layer -> its new number of outputs, and of groups."""

    blobs: dict[tuple[str, int, int], Channels] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)


def prune(model: Model, parts: Mapping[str, float]) -> dict[str, Channels]:
    """Remove channels from layers {name: part in [0, 1)}: the filters with the smallest sums of absolute weights (Li et al. 2017,
    section 3.1), and what belongs to them in the layers behind, up to the next that mixes channels.

    Changes the model, for both phases; returns {layer: the channels that stay}. With no LRN behind them, the net then computes what
    it did with the weights that read those channels at 0.  Raises NetError where a channel cannot leave alone.
    """
    net = model.whole_net()
    model.check_names(list(parts))
    kept = {}
    for name, part in parts.items():
        layer = next(layer for layer in net.layer if layer.name == name)
        require(layer.type in ("Convolution", "InnerProduct"), layer, "has no filters to remove: only a Convolution and an InnerProduct have", "type")
        require(layer.convolution_param.group == 1, layer, "has groups, which must stay of one size", "convolution_param.group")
        require(name in model.weights, layer, "has no weights in this model", error=WeightsError)
        require(0 <= part < 1, layer, f"at least 0 and less than 1 of its channels can leave, found {part:g}")
        weights = model.weights[name][0]
        rows = np.abs(weights.T if layer.inner_product_param.transpose else weights.reshape(_outputs(layer), -1)).reshape(_outputs(layer), -1).sum(1, dtype=np.float64)
        kept[name] = np.sort(np.argsort(rows, kind="stable")[int(part * len(rows)):])
    cuts = Cuts()
    for phase in (pb.TEST, pb.TRAIN):
        _follow(model, phase, kept, cuts)
    for (name, blob, axis), stay in cuts.blobs.items():
        model.weights[name][blob] = np.take(model.weights[name][blob], stay, axis)
    for layer in net.layer:
        if layer.name in cuts.outputs:
            (layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param).num_output = cuts.outputs[layer.name]
        if layer.name in cuts.groups and layer.convolution_param.HasField("group"):
            layer.convolution_param.group = cuts.groups[layer.name]
    return kept


def _outputs(layer: pb.LayerParameter) -> int:
    return layer.inner_product_param.num_output if layer.type == "InnerProduct" else layer.convolution_param.num_output


def _follow(model: Model, phase: int, kept: Mapping[str, Channels], cuts: Cuts) -> None:
    """Walk the net of this phase and note what the channels that leave take with them."""
    built = model.shapes(phase)
    stays: dict[str, Channels] = {}                          # blob -> what is left of its channels, if some leave
    for layer, bottoms, bottom_names, top_names in zip(built.nodes, built.bottoms, built.bottom_names.values(), built.top_names.values()):
        for k, blob in enumerate(layer.blobs):
            array = model.weights[layer.name][k] if k < len(model.weights.get(layer.name, ())) else None
            require(array is not None and blob.fits(array.shape), layer.param, f"needs a parameter {k} of shape {blob.shape} in the weights, found {None if array is None else array.shape}", error=WeightsError)
            model.weights[layer.name][k] = array.reshape(blob.shape)  # type: ignore[union-attr]
        found = [stays.get(name) for name in bottom_names]
        left = _read(layer, [b.shape for b in bottoms], found, cuts) if any(f is not None for f in found) else None
        if layer.name in kept:
            left = kept[layer.name]
            _keep_outputs(layer, left, cuts)
        for name in top_names:
            stays.pop(name, None)
            if left is not None:
                stays[name] = left
    for param in built.unknown:
        if param.name in kept or any(name in stays for name in param.bottom):
            require_known(built, param)


def _keep_outputs(layer: Any, stay: Channels, cuts: Cuts) -> None:
    cuts.outputs[layer.name] = len(stay)
    cuts.blobs[layer.name, 0, 1 if getattr(layer, "transposed", False) else 0] = stay
    if len(layer.blobs) > 1:
        cuts.blobs[layer.name, 1, 0] = stay


def _read(layer: Any, shapes: list[tuple[int, ...]], found: list[Channels | None], cuts: Cuts) -> Channels | None:
    """What is left of a layer's top when of its bottoms' channels only those `found` (None: all) are left."""
    p, stay, shape = layer.param, found[0], shapes[0]
    if layer.type in PASSING:
        return stay
    if layer.type in OF_CHANNELS and len(shapes) == 1 and getattr(layer, "by_channel", True):
        for k, blob in enumerate(layer.blobs):
            if blob.count == shape[1]:
                cuts.blobs[layer.name, k, blob.shape.index(shape[1])] = stay  # type: ignore[assignment]
        return stay
    if layer.type == "Concat" and layer.along == 1:
        starts = np.cumsum([0, *(s[1] for s in shapes)])
        return np.concatenate([start + (np.arange(s[1]) if f is None else f) for start, s, f in zip(starts, shapes, found)])
    if layer.type == "Eltwise":
        require(all(f is not None and np.array_equal(f, stay) for f in found), p,  # type: ignore[arg-type]
                "joins blobs of which not the same channels are left\n  prune a layer whose channels end in a Convolution before that", "bottom")
        return stay
    if stay is None or len(shapes) > 1:
        fail(p, "reads all channels of its bottoms, so that none can leave alone", "bottom")
    inner = prod(shape[2:])
    spread: Channels = (stay[:, None] * inner + np.arange(inner)).reshape(-1)            # in a matrix whose rows are whole items
    if layer.type == "Flatten" and p.flatten_param.axis == 1 and p.flatten_param.end_axis == -1:
        return spread
    if layer.type == "InnerProduct" and layer.first == 1:
        cuts.blobs[layer.name, 0, 0 if layer.transposed else 1] = spread
        return None
    if layer.type in ("Convolution", "Deconvolution") and layer.groups == 1:
        cuts.blobs[layer.name, 0, 1 if layer.type == "Convolution" else 0] = stay
        return None
    if layer.type in ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise") and layer.blobs[0].shape[1] == 1:
        each = layer.blobs[0].shape[0] // shape[1]           # outputs of one channel
        outputs: Channels = (stay[:, None] * each + np.arange(each)).reshape(-1)
        _keep_outputs(layer, outputs, cuts)
        cuts.groups[layer.name] = len(stay)
        return outputs
    fail(p, "reads all channels of its bottom, so that none can leave alone", "bottom")
