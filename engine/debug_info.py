"""debug_info: what a solver logs of every blob and parameter as layers run, in Caffe's words."""
from __future__ import annotations

import logging

from .graph import Graph

log = logging.getLogger("brew")


def log_forward(graph: Graph, i: int) -> None:
    """The mean absolute values of what layer i made, and of its parameters."""
    layer = graph.nodes[i]
    for name, blob in zip(graph.top_names(i), graph.tops[i]):
        log.info("    [Forward] Layer %s, top blob %s data: %g", layer.name, name, blob.value.magnitude())
    for k, blob in enumerate(layer.blobs):
        log.info("    [Forward] Layer %s, param blob %s data: %g", layer.name, graph.parameter_name(i, k),
                 blob.value.magnitude())


def log_backward(graph: Graph, i: int) -> None:
    """The mean absolute gradients that layer i made."""
    layer = graph.nodes[i]
    for name, blob, down in zip(graph.bottom_names(i), graph.bottoms[i], graph.down[i]):
        if down:
            log.info("    [Backward] Layer %s, bottom blob %s diff: %g", layer.name, name, blob.gradient.magnitude())
    for k, blob in enumerate(layer.blobs):
        if layer.param_propagate_down[k]:
            log.info("    [Backward] Layer %s, param blob %s diff: %g", layer.name, graph.parameter_name(i, k),
                     blob.gradient.magnitude())
