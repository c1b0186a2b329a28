"""Old nets and solvers made new: V0 (2013), V1 (2014), inputs outside of layers, solver_type. Caffe's rules and order."""
from __future__ import annotations

import logging
from typing import Any

from google.protobuf.message import Message

from . import brew_pb2 as pb
from . import forks
from .errors import Position, PrototxtError

log = logging.getLogger("brew")
V1 = pb.V1LayerParameter
# V1 enum -> type string; most are the enum's name in CamelCase.
V1_NAMES = {"LRN": "LRN", "MVN": "MVN", "BNLL": "BNLL", "TANH": "TanH", "RELU": "ReLU", "HDF5_DATA": "HDF5Data",
            "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax",
            "SOFTMAX_LOSS": "SoftmaxWithLoss"}
V0_TYPES = {t.lower(): t for t in ("ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA "
            "HDF5_OUTPUT IM2COL INFOGAIN_LOSS INNER_PRODUCT LRN MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID SOFTMAX "
            "SOFTMAX_LOSS SPLIT TANH WINDOW_DATA").split()}
V0_TYPES.update(conv="CONVOLUTION", innerproduct="INNER_PRODUCT", pool="POOLING", images="IMAGE_DATA")

# V0 field -> by type, the message and field of V1 that it becomes.
CONV, IP, POOL = "convolution_param", "inner_product_param", "pooling_param"
SOURCES = {"data": "data_param", "hdf5_data": "hdf5_data_param", "images": "image_data_param",
           "window_data": "window_data_param"}
V0_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (CONV, "num_output"), "innerproduct": (IP, "num_output")},
    "biasterm": {"conv": (CONV, "bias_term"), "innerproduct": (IP, "bias_term")},
    "weight_filler": {"conv": (CONV, "weight_filler"), "innerproduct": (IP, "weight_filler")},
    "bias_filler": {"conv": (CONV, "bias_filler"), "innerproduct": (IP, "bias_filler")},
    "pad": {"conv": (CONV, "pad"), "pool": (POOL, "pad")},
    "kernelsize": {"conv": (CONV, "kernel_size"), "pool": (POOL, "kernel_size")},
    "stride": {"conv": (CONV, "stride"), "pool": (POOL, "stride")},
    "group": {"conv": (CONV, "group")},
    "pool": {"pool": (POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")}, "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")}, "k": {"lrn": ("lrn_param", "k")},
    "source": {**{t: (m, "source") for t, m in SOURCES.items()}, "infogain_loss": ("infogain_loss_param", "source")},
    "batchsize": {t: (m, "batch_size") for t, m in SOURCES.items()},
    "rand_skip": {"data": ("data_param", "rand_skip"), "images": ("image_data_param", "rand_skip")},
    "shuffle_images": {"images": ("image_data_param", "shuffle")},
    "new_height": {"images": ("image_data_param", "new_height")},
    "new_width": {"images": ("image_data_param", "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "hdf5_output_param": {"hdf5_output": ("", "hdf5_output_param")},
    **{v0: {t: ("transform_param", v1) for t in ("data", "images", "window_data")}
       for v0, v1 in dict(scale="scale", meanfile="mean_file", cropsize="crop_size", mirror="mirror").items()},
    **{f"det_{f}": {"window_data": ("window_data_param", f)}
       for f in ("fg_threshold", "bg_threshold", "fg_fraction", "context_pad", "crop_mode")},
}


def settle_forks(message: Message, file: str = "") -> None:
    """Take fields that only forks of Caffe have out of a net or solver that was not read by brew: one warning each, or
    PrototxtError for those that are refused (forks.py says which, and why)."""
    for layer, name, what, refused in forks.settle(message):
        where = f'layer "{layer.name}"' if layer is not None else f"this {message.DESCRIPTOR.name}"
        text = f"{where} has {name}, which is known from forks of Caffe only: {what}"
        if refused:
            place = _place(layer, file) if layer is not None else Position(file)
            raise PrototxtError(text, place if place.file else None)
        log.warning("%s", text)


def upgrade_net(net: pb.NetParameter, file: str = "") -> pb.NetParameter:
    """Bring `net` to today's form, in place, and return it. Raises PrototxtError where Caffe would give up."""
    if net.layers and net.layer:
        raise PrototxtError('a net has either "layer" or "layers" (the form of 2014), not both', _place(net.layers[0], file))
    if any(layer.HasField("layer") for layer in net.layers):
        _upgrade_v0(net, file)
    _move_transformations(net)
    if net.layers:
        net.layer.extend([_upgrade_v1(layer, file) for layer in net.layers])
        net.ClearField("layers")
    _make_input_layer(net, file)
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:    # statistics are not learned
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
    return net


def upgrade_solver(solver: pb.SolverParameter, file: str = "") -> pb.SolverParameter:
    """Turn solver_type into type, in place; nets inside the solver are upgraded too. Raises PrototxtError."""
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise PrototxtError("type and its old form solver_type are both given; keep type", Position(file))
        names = dict(SGD="SGD", NESTEROV="Nesterov", ADAGRAD="AdaGrad", RMSPROP="RMSProp", ADADELTA="AdaDelta", ADAM="Adam")
        solver.type = names[pb.SolverParameter.SolverType.Name(solver.solver_type)]
        solver.ClearField("solver_type")
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgrade_net(getattr(solver, name), file)
    for net in solver.test_net_param:
        upgrade_net(net, file)
    return solver


def _place(layer: Message, file: str) -> Position:
    p = layer.position                                    # type: ignore[attr-defined]
    return Position(p.file or file, p.line, p.column)


# ------------------------------------------------------------------------------------------------------ 2013: V0 to V1

def _upgrade_v0(net: pb.NetParameter, file: str) -> None:
    makers: dict[str, V1] = {}
    kept, replaced = [], {}
    for layer in net.layers:                              # padding layers go; who reads them gets their pad
        if layer.layer.type == "padding":
            if len(layer.bottom) != 1 or len(layer.top) != 1:
                raise PrototxtError("a padding layer has one bottom and one top", _place(layer, file))
            replaced[layer.top[0]] = layer
            continue
        for i, name in enumerate(layer.bottom):
            if name in replaced:
                if layer.layer.type not in ("conv", "pool"):
                    raise PrototxtError(f'"{layer.layer.name}" reads the padding "{name}"; only conv and pool layers may',
                                        _place(layer, file))
                layer.layer.pad = replaced[name].layer.pad
                layer.bottom[i] = replaced[name].bottom[0]
        for name in layer.top:
            replaced.pop(name, None)
            makers[name] = layer
        kept.append(layer)
    upgraded = [_v0_layer(layer, file) for layer in kept]
    net.ClearField("layers")
    net.layers.extend(upgraded)


def _v0_layer(old: V1, file: str) -> V1:
    v0, new = old.layer, V1()
    new.CopyFrom(old)
    new.ClearField("layer")
    if v0.HasField("name"):
        new.name = v0.name
    if v0.type not in V0_TYPES:
        raise PrototxtError(f'layer "{v0.name}" has the type "{v0.type}", which no net of 2013 has', _place(old, file))
    new.type = V1.LayerType.Value(V0_TYPES[v0.type])  # type: ignore[assignment]
    for name in ("blobs", "blobs_lr", "weight_decay"):
        getattr(new, name).MergeFrom(getattr(v0, name))
    for field, value in v0.ListFields():
        if field.name in V0_FIELDS:
            target = V0_FIELDS[field.name].get(v0.type)
            if target is None:
                continue                                  # a field that this type does not use
            message = getattr(new, target[0]) if target[0] else new
            _set(message, target[1], value)
    return new


def _set(message: Message, name: str, value: object) -> None:
    """message.name = value, or its only element where the field has become repeated."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    elif field.is_repeated:
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)


# ------------------------------------------------------------------------------------------------------ 2014: V1 to now

def _move_transformations(net: pb.NetParameter) -> None:
    for layer in net.layers:
        for name, kind in (("data_param", V1.DATA), ("image_data_param", V1.IMAGE_DATA), ("window_data_param", V1.WINDOW_DATA)):
            if layer.type == kind and layer.HasField(name):
                param = getattr(layer, name)
                for field in ("scale", "mean_file", "crop_size", "mirror"):
                    if param.HasField(field):
                        setattr(layer.transform_param, field, getattr(param, field))
                        param.ClearField(field)


def _upgrade_v1(old: V1, file: str) -> pb.LayerParameter:
    new = pb.LayerParameter()
    for field, value in old.ListFields():
        target = new.DESCRIPTOR.fields_by_name.get(field.name)
        if target is None or field.name in ("type", "param"):
            continue
        if field.is_repeated:
            getattr(new, field.name).MergeFrom(value)
        else:
            _set(new, field.name, value)
    if old.type_name:
        new.type = old.type_name
    elif old.HasField("type"):
        name = V1.LayerType.Name(old.type)
        if name == "NONE":
            raise PrototxtError(f'layer "{old.name}" has the type NONE', _place(old, file))
        new.type = V1_NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
    settings: tuple[tuple[str, Any], ...] = (("name", old.param), ("share_mode", old.blob_share_mode), ("lr_mult", old.blobs_lr), ("decay_mult", old.weight_decay))
    for setting, values in settings:
        for i, value in enumerate(values):
            while len(new.param) <= i:
                new.param.add()
            setattr(new.param[i], setting, value)
    return new


def _make_input_layer(net: pb.NetParameter, file: str) -> None:
    if net.input and (net.input_shape or net.input_dim):
        shapes = [list(s.dim) for s in net.input_shape] or [list(net.input_dim[i:i + 4]) for i in range(0, len(net.input_dim), 4)]
        if len(shapes) != len(net.input) or (not net.input_shape and len(net.input_dim) % 4):
            raise PrototxtError(f"{len(net.input)} inputs need a shape each (four input_dim, or one input_shape); "
                                f"there are {len(net.input_dim)} input_dim and {len(net.input_shape)} input_shape", Position(file))
        layers = list(net.layer)
        first = pb.LayerParameter(name="input", type="Input", top=net.input)
        if file:
            first.position.file = file
        for shape in shapes:
            first.input_param.shape.add(dim=shape)
        net.ClearField("layer")
        net.layer.extend([first, *layers])
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)
