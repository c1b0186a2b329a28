"""Nets written in Python: `L.Convolution(bottom, num_output=20, kernel_size=5)` makes a Top, `NetSpec` names them and gives the prototxt.

    from caffe import layers as L, params as P
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, weight_filler=dict(type="xavier"))
    n.relu = L.ReLU(n.conv, in_place=True)
    print(n.to_proto())
"""
from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from ..engine.errors import NetError, nearest
from ..proto import brew_pb2 as pb
from .proto import caffe_pb2 as caffe_pb2

_FIELDS = pb.LayerParameter.DESCRIPTOR.fields_by_name
_WHOLE = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)


def param_name_dict() -> dict[str, str]:
    """{layer type: the field of LayerParameter for its parameters, less "_param"}: {"Convolution": "convolution", ...}."""
    found = {"Deconvolution": "convolution", "DepthwiseConvolution": "convolution", "Im2col": "convolution", "LSTM": "recurrent", "RNN": "recurrent"}
    for name, field in _FIELDS.items():
        if name.endswith("_param") and field.message_type is not None:
            found[field.message_type.name.removesuffix("Parameter")] = name.removesuffix("_param")
    return found


_param_names = param_name_dict()              # under this name scripts add types of their own


def to_proto(*tops: Top) -> pb.NetParameter:
    """The net of all layers that these tops need."""
    return _net([top.fn for top in tops], {})


def _net(functions: Sequence[Function], names: dict[Top | Function, str]) -> pb.NetParameter:
    """These layers, and before them those that they need. What has no name in `names` gets one from its type."""
    layers: OrderedDict[Function, pb.LayerParameter] = OrderedDict()
    counts: Counter[str] = Counter()
    for function in functions:
        function._to_proto(layers, names, counts)
    net = pb.NetParameter()
    net.layer.extend(layers.values())
    return net


def assign_proto(proto: Any, name: str, value: Any) -> None:
    """Set a field: lists for repeated fields (or one value for a list of one), dicts for messages, the rest as it is.

    Raises AttributeError if the message has no such field, naming the nearest.
    """
    descriptor = proto.DESCRIPTOR.fields_by_name.get(name)
    if descriptor is None:
        raise AttributeError(f'{proto.DESCRIPTOR.name} has no field "{name}"{nearest(name, proto.DESCRIPTOR.fields_by_name)}')
    repeated = descriptor.is_repeated
    if repeated and (isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__")):
        value = [value]
    if repeated:
        for item in value:
            if isinstance(item, dict):
                _fill(getattr(proto, name).add(), item)
            elif descriptor.message_type is not None:
                getattr(proto, name).add().CopyFrom(item)
            else:
                getattr(proto, name).append(_enum(descriptor, item))
    elif isinstance(value, dict):
        getattr(proto, name).SetInParent()
        _fill(getattr(proto, name), value)
    elif descriptor.message_type is not None:
        getattr(proto, name).CopyFrom(value)
    else:
        setattr(proto, name, _enum(descriptor, value))


def _fill(message: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        assign_proto(message, name, value)


def _enum(field: Any, value: Any) -> Any:
    """An enum's value by its name, numpy's numbers as Python's, and whole numbers as such."""
    if field.enum_type is not None and isinstance(value, str):
        if value not in field.enum_type.values_by_name:
            raise AttributeError(f'{field.name} cannot be "{value}"{nearest(value, field.enum_type.values_by_name)}')
        return field.enum_type.values_by_name[value].number
    value = value.item() if hasattr(value, "item") else value
    whole = field.cpp_type in _WHOLE and isinstance(value, float) and value.is_integer()     # Python 2's 4 / 2 is Python 3's 2.0
    return int(value) if whole else value


class Top:
    """One result of a Function."""

    def __init__(self, fn: Function, n: int):
        self.fn, self.n = fn, n

    def update(self, params: dict[str, Any]) -> None:
        """Change parameters of the layer that makes this top."""
        self.fn.update(params)

    def to_proto(self) -> pb.NetParameter:
        """The net of all layers that this top needs."""
        return to_proto(self)


class Function:
    """A layer: its type, the Tops it takes, its parameters, and the `ntop` Tops it makes. Raises TypeError for what is no Top."""

    def __init__(self, type_name: str, inputs: Sequence[Any], params: dict[str, Any]):
        self.type_name = type_name
        self.params: dict[str, Any] = {}
        for i, top in enumerate(inputs):
            if not isinstance(top, Top):
                raise TypeError(f"{type_name} input {i} is not a Top (type is {type(top)})")
        self.inputs: tuple[Top, ...] = tuple(inputs)
        self.ntop, self.in_place = int(params.get("ntop", 1)), False
        self.update({name: value for name, value in params.items() if name != "ntop"})
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def update(self, params: dict[str, Any]) -> None:
        """Change parameters. Raises TypeError for in_place without as many inputs as tops."""
        self.params.update(params)
        self.in_place = bool(self.params.pop("in_place", self.in_place))
        if self.in_place and len(self.inputs) < self.ntop:
            raise TypeError(f"{self.type_name} in place needs as many inputs as tops")

    @staticmethod
    def _name(key: Top | Function, type_name: str, names: dict[Top | Function, str], counts: Counter[str]) -> str:
        if key not in names:
            counts[type_name] += 1
            names[key] = type_name + str(counts[type_name])
        return names[key]

    def _to_proto(self, layers: OrderedDict[Function, pb.LayerParameter], names: dict[Top | Function, str], counts: Counter[str]) -> None:
        stack: list[tuple[Function, bool]] = [(self, False)]            # no recursion: nets are deeper than Python's stack
        while stack:
            fn, ready = stack.pop()
            if fn in layers:
                continue
            if ready:
                layers[fn] = fn._layer(layers, names, counts)
            else:
                stack.append((fn, True))
                stack.extend((top.fn, False) for top in reversed(fn.inputs))

    def _layer(self, layers: OrderedDict[Function, pb.LayerParameter], names: dict[Top | Function, str], counts: Counter[str]) -> pb.LayerParameter:
        layer = pb.LayerParameter(type=self.type_name)
        layer.bottom.extend(layers[top.fn].top[top.n] for top in self.inputs)
        layer.top.extend(layer.bottom if self.in_place else [self._name(top, self.type_name, names, counts) for top in self.tops])
        layer.name = self._name(self.tops[0] if self.tops else self, self.type_name, names, counts)
        own = _param_names.get(self.type_name)
        for name, value in self.params.items():
            # what ends in "param", or is none of the type's parameters, is the layer's own
            its = getattr(layer, f"{own}_param").DESCRIPTOR.fields_by_name if own else {}
            param = name.endswith("param")
            mine = own is None or param and name in _FIELDS or name not in its and (param or name in _FIELDS)
            try:
                assign_proto(layer if mine else getattr(layer, f"{own}_param"), name, value)
            except (AttributeError, TypeError, ValueError) as e:
                raise type(e)(f'layer "{layer.name}" of type {self.type_name}: {name}: {e}') from None
        return layer


class NetSpec:
    """Tops by name. Layers and blobs get the names of the attributes: `n.conv1 = L.Convolution(...)`, or `n["conv1"] = ...`."""

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.tops[name]
        except KeyError:
            raise AttributeError(f'this NetSpec has no top "{name}"{nearest(name, self.tops)}') from None

    def __setitem__(self, key: str, value: Any) -> None:
        self.__setattr__(key, value)

    def __getitem__(self, key: str) -> Any:
        return self.__getattr__(key)

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __delitem__(self, key: str) -> None:
        del self.tops[key]

    def keys(self) -> list[str]:
        return list(self.tops)

    def values(self) -> list[Any]:
        return list(self.tops.values())

    vals = values

    def update(self, name: str | dict[str, Any], params: dict[str, Any] | None = None) -> None:
        """update(name, params) changes parameters of the layer that makes the top `name`, as the NetSpec of SSD;
        update(tops) adds tops. Raises AttributeError if there is no such top."""
        if isinstance(name, dict):
            self.tops.update(name)
        else:
            self[name].update(params or {})

    def to_proto(self) -> pb.NetParameter:
        """The net, layers after those that they need. A layer without tops (Silence) is a Function here, and named all the same."""
        names: dict[Top | Function, str] = {}
        for name, value in self.tops.items():
            if not isinstance(value, (Top, Function)):
                raise NetError(f'the attribute "{name}" of this NetSpec is no Top, but {value!r}')
            names[value] = name                                      # of several names the last one, as in pycaffe
        return _net([value.fn if isinstance(value, Top) else value for value in self.tops.values()], names)


class Layers:
    """`layers.<Type>(tops..., ntop=1, in_place=False, name=..., fields...)`: a Top, a tuple of ntop Tops, or for ntop=0 the Function."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*inputs: Any, **params: Any) -> Any:
            fn = Function(name, inputs, params)
            return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops
        return layer


class Parameters:
    """`params.<X>.<ENUM>`: the number of an enum's value of the message XParameter, as in params.Pooling.MAX."""

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("__") else getattr(pb, f"{name}Parameter", None)
        if found is None:
            messages = pb.DESCRIPTOR.message_types_by_name
            known = [message.removesuffix("Parameter") for message in messages if message.endswith("Parameter")]
            raise AttributeError(f'there are no parameters of the name "{name}"{nearest(name, known)}')
        return found


layers, params = Layers(), Parameters()
