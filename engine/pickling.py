"""Nets as values: what `pickle` and `copy` take of one, and a net made from it.

A copy is the net as defined, with the parameters (values and gradients), what the user gave its inputs, and the state
of its layers: positions in data, random draws, states of sequences. It goes on with the same bits. It shares nothing
with the original; the values of other blobs are zero until the next forward pass, and hooks stay with the original.
"""
from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from .errors import fail
from .graph import Graph

FORGETS = ("its position in its data is unknown\n  define snapshot_state() and restore_state(state); "
           "see docs/layers/python.md")


def state(graph: Graph) -> dict[str, Any]:
    """What a copy of the net needs beside its definition. Raises NetError for a net with a layer that cannot be
    copied."""
    for layer in graph.nodes:
        reason = layer.bound or (FORGETS if layer.forgets() else "")
        if reason:
            fail(layer.param, f"a net with this layer cannot be pickled or copied: {reason}")
    return {
        "parameters": [[(b.value.state(), b.gradient.state()) for b in layer.blobs] for layer in graph.nodes],
        "given": [[(b.shape, b.value.state()) for b in tops] if _is_given(layer, bottoms) else []
                  for layer, bottoms, tops in zip(graph.nodes, graph.bottoms, graph.tops)],
        "layers": [_layer_state(layer) for layer in graph.nodes]}


def added(thing: Any) -> dict[str, Any]:
    """The members that a subclass or the user has added."""
    return {name: value for name, value in vars(thing).items() if name not in thing.own_members}


def _is_given(layer: Any, bottoms: Any) -> bool:
    """Whether the layer's tops hold what the user, or its setup, wrote; data layers write them in every forward."""
    return not bottoms and layer.counter != "batches"


def _layer_state(layer: Any) -> dict[str, Any]:
    keeper = layer.keeper()
    return {"count": getattr(layer, layer.counter) if layer.counter else 0, "carried": [m.state() for m in layer.carried],
            "attributes": {name: getattr(layer, name) for name in layer.given},
            "user": None if keeper is None else keeper.snapshot_state()}


def set_values(graph: Graph, state: dict[str, Any], reshape: Callable[[], None]) -> None:
    """Give a net its parameters and its state; reshape() passes the inputs' shapes through it."""
    for tops, given in zip(graph.tops, state["given"]):
        for blob, (shape, _) in zip(tops, given):
            blob.reshape(*shape)
    reshape()
    for tops, given in zip(graph.tops, state["given"]):
        for blob, (_, values) in zip(tops, given):
            blob.value.set_state(values)
    for layer, parameters, kept in zip(graph.nodes, state["parameters"], state["layers"]):
        for blob, (values, gradient) in zip(layer.blobs, parameters):
            blob.value.set_state(values)
            blob.gradient.set_state(gradient)
        for name, value in kept["attributes"].items():
            setattr(layer, name, value)
        if layer.keeper() is not None:                         # before its counter, which it may have to know
            layer.keeper().restore_state(kept["user"])
        if layer.counter:
            setattr(layer, layer.counter, kept["count"])
        for memory, values in zip(layer.carried, kept["carried"]):
            memory.set_state(values)


def apart(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """A state that shares nothing with its net."""
    return {**state, "more": deepcopy(state["more"], memo), "layers": deepcopy(state["layers"], memo)}

