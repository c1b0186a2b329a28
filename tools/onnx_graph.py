"""brew export: a net with its weights as an ONNX model. What each layer becomes stands in onnx_layers.py."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.errors import NetError, fail, require
from ..engine.files import check_writable, write_whole
from ..engine.layer import layer_class
from ..engine.net import Net
from ..engine.passes import filter_layers
from ..proto import brew_pb2 as pb
from ..proto import read_net

OPSET, IR = 17, 8                                            # ONNX 1.12 (2022), which ONNX Runtime 1.13 and OpenVINO 2022.3 run


class Graph:
    """The ONNX graph as it grows. Tensors are known by their names."""

    def __init__(self, any_batch: bool = False):
        self.any_batch = any_batch                           # the first axis of all inputs is left open
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.layer: Any = None                               # whose nodes are being made
        self._stored: dict[int, str] = {}
        self._count = 0

    def op(self, type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns the name of its result, or with `outputs` > 1 the list of their names."""
        from onnx import helper
        names = [self._name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(type, list(inputs), names, name=f"{self.layer.name}/{type}{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def output(self, x: str, name: str, shape: tuple[int, ...]) -> None:
        """Let the model give `x`, which is no blob, under this name."""
        from onnx import helper
        self.nodes.append(helper.make_node("Identity", [x], [name]))
        self.outputs[name] = shape

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = self._name()
        self.weights[name] = np.ascontiguousarray(values, dtype)
        return name

    def blob(self, number: int) -> str:
        """A parameter of the layer as it is; layers that share one share it here, too."""
        store = id(self.layer.blobs[number].value.store)
        if store not in self._stored:
            self._stored[store] = f"{self.layer.name}/{number}"
            self.weights[self._stored[store]] = self.array(number)
        return self._stored[store]

    def array(self, number: int) -> np.ndarray:
        """The values of a parameter of the layer, for what must be written in another form."""
        return np.array(self.layer.blobs[number].data, np.float32)

    def reshape(self, x: str, before: Sequence[int], after: Sequence[int]) -> str:
        """`x` of shape `before` in the shape `after`."""
        if tuple(before) == tuple(after):
            return x
        dims, k = list(after), 0
        while k < min(len(before), len(after)) and before[k] == after[k]:
            dims[k] = 0                                      # as it is
            k += 1
        if self.any_batch and k == 0:
            dims[0] = -1
        return str(self.op("Reshape", x, self.constant(dims, np.int64)))

    def fixed_batch(self) -> None:
        """Raise NetError if the batch is to be left open: this layer needs to know its size."""
        if self.any_batch:
            self.refuse("needs to know the size of the batch: export without -any_batch")

    def refuse(self, why: str) -> None:
        fail(self.layer.param, f"has no ONNX form: {why}")

    def _name(self) -> str:
        self._count += 1
        return f"{self.layer.name}:{self._count}"


def _onnx() -> Any:
    """The module. Raises NetError without it (extra [onnx])."""
    try:
        import onnx
    except ImportError:
        raise NetError("exporting needs onnx: pip install 'brew[onnx]'") from None
    return onnx


def build(net: Net, any_batch: bool = False) -> tuple[Any, list[str]]:
    """(The onnx.ModelProto of a TEST net, the layers left out: data layers, losses, scores). Inputs and outputs have the names and
    shapes of blobs. Raises NetError for a layer that has no form in ONNX."""
    onnx = _onnx()
    TensorProto, checker, helper, numpy_helper = onnx.TensorProto, onnx.checker, onnx.helper, onnx.numpy_helper
    from .onnx_layers import FORMS, LEFT_OUT
    graph = Graph(any_batch)
    at: dict[str, str] = {}                                  # blob -> the tensor that holds it by now
    shapes: dict[str, tuple[int, ...]] = {}
    left_out: list[str] = []
    unread: dict[str, None] = {}
    for layer, bottom, top, bottom_names, top_names in zip(net.nodes, net.bottoms, net.tops, net.bottom_names.values(), net.top_names.values()):
        graph.layer = layer
        shapes.update((name, blob.shape) for name, blob in zip(top_names, top))
        if layer.is_loss or layer.type in LEFT_OUT:
            left_out.append(layer.name)
            continue
        if any(name not in at for name in bottom_names):
            left_out.append(layer.name)                      # it reads a loss
            continue
        if not bottom and layer.type != "Parameter":
            if layer.type != "Input":
                left_out.append(layer.name)
            graph.inputs.update((name, blob.shape) for name, blob in zip(top_names, top))
            at.update((name, name) for name in top_names)
            continue
        if layer.type not in FORMS and not layer.per_channel:
            fail(layer.param, "has no form in ONNX", "type")
        made = FORMS["affine" if layer.per_channel else layer.type](graph, layer, [at[name] for name in bottom_names], bottom, top)
        at.update(zip(top_names, [made] if isinstance(made, str) else made))
        for name in bottom_names:
            unread.pop(name, None)
        unread.update(dict.fromkeys(top_names))
    outputs = {name: f"{name}_out" if name in graph.inputs else name for name in unread}        # an input that is rewritten in place has its name
    if not outputs:
        raise NetError(f'net "{net.name}" makes nothing that could be exported')
    nodes = _named(graph, at, outputs)
    read = {name for node in nodes for name in node.input}

    def info(name: str, shape: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape[1:]] if any_batch else shape)
    shapes.update(graph.outputs)
    onnx_graph = helper.make_graph(nodes, net.name or "net", [info(name, shape) for name, shape in graph.inputs.items() if name in read],
                                   [info(called, shapes[name]) for name, called in [*outputs.items(), *zip(graph.outputs, graph.outputs)]],
                                   [numpy_helper.from_array(array, name) for name, array in graph.weights.items() if name in read])
    from ..version import __version__
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="brew", producer_version=__version__)
    checker.check_model(model)
    return model, left_out


def _named(graph: Graph, at: dict[str, str], outputs: dict[str, str]) -> list[Any]:
    """The nodes, with the tensors that blobs end as called by the blobs' names, or as `outputs` says."""
    from onnx import helper
    fixed = {*graph.inputs, *graph.weights, *graph.outputs}
    names: dict[str, str] = {}
    for blob, called in [*outputs.items(), *zip(at, at)]:    # what comes out has the first say
        if at[blob] not in fixed and called not in fixed and called not in names.values():
            names.setdefault(at[blob], called)
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return graph.nodes + [helper.make_node("Identity", [names.get(at[blob], at[blob])], [called]) for blob, called in outputs.items() if names.get(at[blob]) != called]


def export(args: argparse.Namespace) -> int:
    """Write the model as `brew export` was asked to. Raises BrewError."""
    check_writable(args.output)
    _onnx()
    declared = read_net(args.model)
    declared.state.MergeFrom(pb.NetState(phase=pb.TEST))
    for layer in filter_layers(declared).layer:               # and not when it is built: that would import it
        require(not layer_class(layer).user_code, layer, "has no form in ONNX", "type")
    net = Net(declared, pb.TEST, weights=args.weights or None)
    model, left_out = build(net, args.any_batch)
    write_whole(args.output, model.SerializeToString())
    shapes = {v.name: " x ".join(str(d.dim_param or d.dim_value) for d in v.type.tensor_type.shape.dim) for v in (*model.graph.input, *model.graph.output)}
    for what, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        print(f"{what:9}{', '.join(f'{v.name} ({shapes[v.name]})' for v in values)}")
    if left_out:
        print(f"left out {', '.join(left_out)}")
    print(f"{args.output}: {len(model.graph.node)} nodes, opset {OPSET}")
    return 0
