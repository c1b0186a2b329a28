"""What a net may say, and rarely means: the warnings of brew check."""
from __future__ import annotations

import numpy as np

from ..engine.layer import LAYERS
from ..proto import brew_pb2 as pb
from ..proto.text import locate
from .coordinates import crop_shifts

LEARN = {"BN", "Bias", "Convolution", "ConvolutionDepthwise", "Deconvolution", "DepthwiseConvolution", "Embed", "InnerProduct", "LSTM", "Normalize", "PReLU",
         "Parameter", "RNN", "Scale", "SeparableConvolution"}
# their tops are there to be looked at
RESULTS = {"Accuracy", "ArgMax", "CTCDecoder", "CTCGreedyDecoder", "DetectionEvaluate", "DetectionOutput",
           "PrecisionAtK", "SegAccuracy", "Softmax"}


def mistakes(net: pb.NetParameter, phase: int) -> list[str]:
    """Warnings about the layers of a net (filtered, without splits), each with its place."""
    losses = {layer.name for layer in net.layer if any(layer.loss_weight) or not layer.loss_weight and is_loss(layer)}
    found = _batch_norms(net, phase == pb.TRAIN and bool(losses)) + _crops(net)
    if phase == pb.TRAIN and losses:
        found += _unreached(net, losses) + _unread(net, losses)
    return found


def is_loss(layer: pb.LayerParameter) -> bool:
    return getattr(LAYERS.get(layer.type), "is_loss", False)


def warning(layer: pb.LayerParameter, text: str, field: str = "") -> str:
    place = locate(layer, field)
    return f'{f"{place}: " if place else ""}warning: layer "{layer.name}" (type "{layer.type}") {text}'


def _batch_norms(net: pb.NetParameter, trains: bool) -> list[str]:
    found = []
    for i, layer in enumerate(net.layer):
        if layer.type != "BatchNorm":
            continue
        p = layer.batch_norm_param
        learns = p.scale_bias or p.HasField("scale_filler") or p.HasField("bias_filler")
        after = next((other for other in net.layer[i + 1:] if set(layer.top) & set(other.bottom)), None)
        if not learns and (after is None or after.type != "Scale"):
            found.append(warning(layer, "is not followed by a Scale layer: its result has mean 0 and variance 1 for good\n"
                                 "  Scale with bias_term: true learns both, as in the paper"))
        if trains and layer.batch_norm_param.use_global_stats:
            found.append(warning(layer, "uses its stored statistics in TRAIN: they will not change", "batch_norm_param.use_global_stats"))
    return found


def _crops(net: pb.NetParameter) -> list[str]:
    """Crops that begin at 0 where padding or a deconvolution has shifted what they cut."""
    shifts = [(layer, ", ".join(f"{v:g}" for v in np.atleast_1d(shift))) for layer, shift in crop_shifts(net)]
    return [warning(layer, f"begins at 0, and what it cuts is shifted: coordinates agree for the offset {shift}\n"
                    "  nets of the time when Crop had no offset computed it; crop_param { offset: } gives it now", "type")
            for layer, shift in shifts]


def _unreached(net: pb.NetParameter, losses: set[str]) -> list[str]:
    """Layers that learn, and that no loss depends on."""
    needed: set[str] = set()
    found = []
    for layer in reversed(net.layer):
        if layer.name in losses or needed & set(layer.top):
            needed |= set(layer.bottom)
        elif layer.type in LEARN:
            found.append(warning(layer, "learns nothing: no loss depends on it"))
    return found[::-1]


def _unread(net: pb.NetParameter, losses: set[str]) -> list[str]:
    """Tops that nobody reads, where they are no results."""
    last = {name: layer for layer in net.layer for name in layer.top}
    read = {name for layer in net.layer for name in layer.bottom if last.get(name) is not layer}
    return [warning(layer, f'makes blob "{name}", which nothing reads; a Silence layer says that this is meant') for name, layer in last.items()
            if name not in read and layer.name not in losses and layer.type not in RESULTS and not is_loss(layer)]
