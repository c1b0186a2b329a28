"""How coordinates of one blob map to those of another: what fully convolutional nets need to crop and align.

A map is (axis, a, b): behind that axis, x in one blob lies at a x + b in the other; a and b are numbers, or arrays with
one for each spatial axis. (Long, Shelhamer and Darrell, Fully Convolutional Networks, 2015, section 3.)

A layer is anything with `type_name` and `params` (a dict); a place where maps begin and end has `fn`, the layer that makes
it, and `fn.inputs`, the places that this layer reads.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from ..proto import brew_pb2 as pb

PASS_THROUGH_LAYERS = ["AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power", "PReLU", "ReLU", "Scale",
                       "Sigmoid", "Softmax", "Split", "Swish", "TanH", "Threshold"]
Map = tuple[Any, Any, Any]


class UndefinedMapException(Exception):
    """For layers that keep no spatial order."""


class AxisMismatchException(Exception):
    """For maps that begin at different axes."""


def conv_params(fn: Any) -> tuple[int, Any, Any, Any]:
    """(first spatial axis, stride, size of the dilated kernel, pad) of a Convolution, Deconvolution, Pooling or Im2col."""
    params: dict[str, Any] = {}
    for name, value in fn.params.items():
        if name.endswith("_param") and isinstance(value, dict):      # convolution_param=dict(...)
            params.update(value)
        else:
            params[name] = value
    if any(f"{name}_{a}" in params for name in ("kernel", "stride", "pad") for a in "hw"):
        raise UndefinedMapException(f"{fn.type_name}: the _h and _w fields are not supported here; give kernel_size, stride and pad as lists")
    kernel, stride, pad, dilation = (np.array(params.get(name, default)) for name, default in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1)))
    for name, values in (("kernel_size", kernel), ("stride", stride), ("pad", pad), ("dilation", dilation)):
        if values.ndim > 1:
            raise ValueError(f"{fn.type_name}: {name} must be a number or a list of them, found {values.tolist()}")
    return params.get("axis", 1), stride, dilation * (kernel - 1) + 1, pad


def crop_params(fn: Any) -> tuple[int, Any]:
    """(first cropped axis, offset) of a Crop."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0))


def coord_map(fn: Any) -> Map:
    """The map from the coordinates of a layer's bottom to those of its top. Raises UndefinedMapException."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset                          # a map's axis is the one before, as Convolution's
    raise UndefinedMapException(f"no map through a layer of type {fn.type_name}")


def compose(base: Map, after: Map) -> Map:
    """The map that goes through `base`, then through `after`. Raises AxisMismatchException."""
    axis1, a1, b1 = base
    axis2, a2, b2 = after
    if axis1 is not None and axis2 is not None and axis1 != axis2:
        raise AxisMismatchException(f"one map begins at axis {axis1}, the other at {axis2}")
    return axis2 if axis1 is None else axis1, a1 * a2, a1 * b2 + b1


def inverse(mapping: Map) -> Map:
    """The map the other way."""
    axis, a, b = mapping
    return axis, 1 / a, -b / a


def coord_map_from_to(top_from: Any, top_to: Any) -> Map:
    """The map from the coordinates of one Top to those of another, through a layer that both depend on.

    Raises RuntimeError if spatial layers join them nowhere, AxisMismatchException if those begin at different axes.
    """
    def bottoms(top: Any) -> list[Any]:
        return list(top.fn.inputs[:1] if top.fn.type_name == "Crop" else top.fn.inputs)      # the other only gives a size

    def maps(top: Any) -> dict[Any, Map]:
        """From every Top that this one depends on, as far as there are maps, to this one."""
        found: dict[Any, Map] = {top: (None, 1, 0)}
        frontier = [top]
        while frontier:
            here = frontier.pop()
            for bottom in bottoms(here):
                if bottom not in found:
                    try:
                        found[bottom] = compose(found[here], coord_map(here.fn))
                        frontier.append(bottom)
                    except UndefinedMapException:
                        pass
        return found

    to_from, to_target = maps(top_from), maps(top_to)
    for top in to_target:                                    # in the order in which they were met: the nearest first
        if top in to_from:
            return compose(to_target[top], inverse(to_from[top]))
    raise RuntimeError("these tops have no map: no chain of spatial layers joins them")


@dataclass(eq=False)
class LayerOfNet:
    """A layer of a NetParameter as the functions here take it."""

    type_name: str
    params: dict[str, Any]
    inputs: Sequence[Place] = ()


@dataclass(eq=False)
class Place:
    """A blob as one layer makes it."""

    fn: LayerOfNet = field(default_factory=lambda: LayerOfNet("Input", {}))


def crop_shifts(net: pb.NetParameter) -> list[tuple[pb.LayerParameter, Any]]:
    """(layer, offset that aligns) of each Crop of a net without an offset that coordinates say should have one."""
    found = []
    made: dict[str, Place] = {}
    for layer in net.layer:
        places = [made.setdefault(name, Place()) for name in layer.bottom]
        spatial = ("convolution_param", "pooling_param", "crop_param")
        name = next((f.name for f, _ in layer.ListFields() if f.name in spatial), "")
        params = MessageToDict(getattr(layer, name), preserving_proto_field_name=True) if name else {}
        if layer.type == "Crop" and len(places) == 2 and not layer.crop_param.offset:
            try:
                _, a, b = coord_map_from_to(*places)
            except (RuntimeError, AxisMismatchException, UndefinedMapException):
                a = b = np.zeros(1)
            if np.all(np.asarray(a) == 1) and np.any(np.asarray(b) != 0):
                found.append((layer, -np.asarray(b)))
        fn = LayerOfNet(layer.type, params, places)
        made.update({top: Place(fn) for top in layer.top})
    return found
