"""debug_info: what a solver logs of every blob and parameter as layers run, in Caffe's words."""
from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("brew")


def log_forward(net: Any, i: int) -> None:
    """The mean absolute values of what layer i made, and of its parameters."""
    layer = net.nodes[i]
    for name, blob in zip(net.top_names[layer.name], net.tops[i]):
        log.info("    [Forward] Layer %s, top blob %s data: %g", layer.name, name, _magnitude(blob.value))
    for k, blob in enumerate(layer.blobs):
        log.info("    [Forward] Layer %s, param blob %s data: %g", layer.name, net.param_name(i, k), _magnitude(blob.value))


def log_backward(net: Any, i: int) -> None:
    """The mean absolute gradients that layer i made."""
    layer = net.nodes[i]
    for name, blob, down in zip(net.bottom_names[layer.name], net.bottoms[i], net._down[i]):
        if down:
            log.info("    [Backward] Layer %s, bottom blob %s diff: %g", layer.name, name, _magnitude(blob.gradient))
    for k, blob in enumerate(layer.blobs):
        if layer.param_propagate_down[k]:
            log.info("    [Backward] Layer %s, param blob %s diff: %g", layer.name, net.param_name(i, k), _magnitude(blob.gradient))


def _magnitude(memory: Any) -> float:
    """The mean of the absolute values."""
    array = memory.read()
    return float(abs(array).mean()) if array.size else 0.0
