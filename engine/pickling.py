"""Nets as values: what `pickle` and `copy` take of one, and a net made from it.

A copy is the net as defined, with the parameters (values and gradients), what the user gave its inputs, and the state
of its layers: positions in data, random draws, states of sequences. It goes on with the same bits. It shares nothing
with the original; the values of other blobs are zero until the next forward pass, and hooks stay with the original.
"""
from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from ..proto import brew_pb2 as pb
from . import context
from .errors import fail
from .memory import Memory
from .passes import filter_layers, insert_splits

if TYPE_CHECKING:
    from .net import Net


FORGETS = ("its position in its data is unknown\n  define snapshot_state() and restore_state(state); "
           "see docs/layers/python.md")


def plain(memory: Memory) -> np.ndarray | None:
    """The values in plain order, a copy; None: all zero."""
    return None if memory.store.is_zero else memory.plain().copy()


def fill(memory: Memory, values: np.ndarray | None) -> None:
    if values is None:
        memory.clear()
    else:
        memory.assign(values)


def state(net: Net) -> dict[str, Any]:
    """What a copy of the net needs. Raises NetError for a net with a layer that cannot be copied."""
    net.context.activate()
    for layer in net.nodes:
        reason = layer.bound or (FORGETS if layer.forgets() else "")
        if reason:
            fail(layer.param, f"a net with this layer cannot be pickled or copied: {reason}")
    return {
        "param": net.param.SerializeToString(), "file": net.file, "phase": net.phase, "seed": net.seed,
        "keep_values": net.keep_values, "keep_blobs": net.keep_blobs,
        "parameters": [[(plain(b.value), b.gradient.state()) for b in layer.blobs] for layer in net.nodes],
        "given": [[(b.shape, plain(b.value)) for b in tops] if _is_given(layer, bottoms) else []
                  for layer, bottoms, tops in zip(net.nodes, net.bottoms, net.tops)],
        "layers": [_layer_state(layer) for layer in net.nodes],
        "more": added(net)}


def added(thing: Any) -> dict[str, Any]:
    """The members that a subclass or the user has added."""
    return {name: value for name, value in vars(thing).items() if name not in thing.own_members}


def _is_given(layer: Any, bottoms: Any) -> bool:
    """Whether the layer's tops hold what the user, or its setup, wrote; data layers write them in every forward."""
    return not bottoms and layer.counter != "batches"


def _layer_state(layer: Any) -> dict[str, Any]:
    keeper = layer.keeper()
    return {"count": getattr(layer, layer.counter) if layer.counter else 0, "carried": [plain(m) for m in layer.carried],
            "attributes": {name: getattr(layer, name) for name in layer.given},
            "user": None if keeper is None else keeper.snapshot_state()}


def build(net: Net, state: dict[str, Any]) -> None:
    """Make `net`, an object without members, the net of this state, for the current device; without its values."""
    net.file, net.phase, net.seed, net.context = state["file"], state["phase"], state["seed"], context.current()
    net.param = pb.NetParameter.FromString(state["param"])
    net.name = net.param.name
    net._build(insert_splits(filter_layers(net.param)))
    net.keep_values, net.keep_blobs = state["keep_values"], state["keep_blobs"]
    vars(net).update(state["more"])


def set_values(net: Net, state: dict[str, Any]) -> None:
    """Give a net that `build` made its parameters and its state."""
    for tops, given in zip(net.tops, state["given"]):
        for blob, (shape, _) in zip(tops, given):
            blob.reshape(*shape)
    net.reshape()
    for tops, given in zip(net.tops, state["given"]):
        for blob, (_, values) in zip(tops, given):
            fill(blob.value, values)
    for layer, parameters, kept in zip(net.nodes, state["parameters"], state["layers"]):
        for blob, (values, gradient) in zip(layer.blobs, parameters):
            fill(blob.value, values)
            blob.gradient.set_state(gradient)
        for name, value in kept["attributes"].items():
            setattr(layer, name, value)
        if layer.keeper() is not None:                         # before its counter, which it may have to know
            layer.keeper().restore_state(kept["user"])
        if layer.counter:
            setattr(layer, layer.counter, kept["count"])
        for memory, values in zip(layer.carried, kept["carried"]):
            fill(memory, values)


def revive(net: Net, state: dict[str, Any]) -> None:
    build(net, state)
    set_values(net, state)


def deep_copy(net: Net, memo: dict[int, Any]) -> Net:
    """A copy in the net's own context."""
    copy = memo[id(net)] = type(net).__new__(type(net))
    with net.context:
        revive(copy, apart(net.__getstate__(), memo))
    return copy


def apart(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """A state that shares nothing with its net."""
    return {**state, "more": deepcopy(state["more"], memo), "layers": deepcopy(state["layers"], memo)}

