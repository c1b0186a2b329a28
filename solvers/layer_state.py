"""What layers know beyond their weights, for snapshots: counters, and states carried from batch to batch."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.layer import Layer
from ..engine.layout import PLAIN
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb
from ..proto import from_array, to_array

if TYPE_CHECKING:
    from .solver import Solver

log = logging.getLogger("brew")


def collect(solver: Solver) -> list[pb.LayerState]:
    """The counters and carried states of all layers that have some."""
    found = []
    for number, net in enumerate(solver.nets, -1):
        for layer in net.layers:
            if layer.counter or layer.carried:
                found.append(pb.LayerState(net=number, layer=layer.name, count=getattr(layer, layer.counter) if layer.counter else 0))
                for memory in layer.carried:
                    from_array(memory.store.read(PLAIN).reshape(memory.shape), found[-1].carried.add())
    return found


@dataclass
class Change:
    """What a LayerState changes, all of it read and checked."""

    layer: Layer
    count: int
    carried: list[tuple[Memory, np.ndarray]]     # each with its values


def planned(solver: Solver, states: Any) -> list[Change]:
    """What put_back() changes. Layers that no longer exist are skipped; nothing is changed yet."""
    found = []
    for state in states:
        layer = solver.nets[state.net + 1].layer_dict.get(state.layer) if state.net + 1 < len(solver.nets) else None
        if layer is None:
            log.info('skipping the state of layer "%s", which is not in this net', state.layer)
            continue
        arrays, own = [to_array(blob) for blob in state.carried], [memory.shape for memory in layer.carried]
        if [a.shape for a in arrays] != own:
            log.warning('layer "%s" starts with states of zero: in the snapshot they have the shapes %s, in this net %s', layer.name, [a.shape for a in arrays], own)
            arrays = [np.zeros(shape, np.float32) for shape in own]
        found.append(Change(layer, state.count, list(zip(layer.carried, arrays))))
    return found


def put_back(solver: Solver, states: Any) -> None:
    """Return all layers to what collect() found."""
    apply(planned(solver, states))


def apply(changes: list[Change]) -> None:
    """Set counters and carried states. This cannot fail."""
    for change in changes:
        if change.layer.counter:
            setattr(change.layer, change.layer.counter, change.count)
        for memory, values in change.carried:
            memory.store.write(PLAIN)[...] = values.ravel()
