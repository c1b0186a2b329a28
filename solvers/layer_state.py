"""What layers know beyond their weights, for snapshots: counters, states carried from batch to batch, states of users' layers."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from ..engine.errors import SnapshotError, fail
from ..engine.layer import Layer
from ..engine.memory import Memory
from ..engine.net import Net
from ..proto import brew_pb2 as pb
from ..proto import from_array, to_array
from .state_value import decode, encode

if TYPE_CHECKING:
    from .declaration import Declaration

log = logging.getLogger("brew")
_warned: WeakSet[Declaration] = WeakSet()     # solvers that were told which of their layers forget


def collect(nets: Sequence[Net]) -> list[pb.LayerState]:
    """The counters, carried states and states of users' layers, of all layers that have some. Raises SnapshotError."""
    found = []
    for number, net in enumerate(nets, -1):
        for layer in net.nodes:
            keeper = layer.keeper()
            if layer.counter or layer.carried or keeper is not None:
                found.append(pb.LayerState(net=number, layer=layer.name, count=getattr(layer, layer.counter) if layer.counter else 0))
                for memory in layer.carried:
                    from_array(memory.plain(), found[-1].carried.add())
                if keeper is not None:
                    _encode(layer, keeper, found[-1].user)
    return found


def _encode(layer: Layer, keeper: Any, into: pb.StateValue) -> None:
    value = keeper.snapshot_state()
    try:
        encode(value, into, "state")
    except TypeError as e:
        fail(layer.param, f"snapshot_state() must return values that a snapshot can hold: {e}", "python_param.layer", SnapshotError)


def warn_of_forgetting(solver: Declaration) -> None:
    """Name, once, the layers that a resumed training will begin anew with."""
    names = dict.fromkeys(f'"{layer.name}"' for net in solver.nets for layer in net.nodes if layer.forgets())
    if names and solver not in _warned:
        log.warning("a resumed training will restart these Python layers from the beginning: %s\n  to keep their position in snapshots, "
                    "define snapshot_state() and restore_state(state); see docs/layers/python.md", ", ".join(names))
        _warned.add(solver)


@dataclass
class Change:
    """What a LayerState changes, all of it read and checked."""

    layer: Layer
    count: int
    carried: list[tuple[Memory, np.ndarray]]     # each with its values
    user: Any                                    # for restore_state()
    has_user: bool


def planned(nets: Sequence[Net], states: Any) -> list[Change]:
    """What put_back() changes. Layers that no longer exist are skipped; nothing is changed yet."""
    found = []
    for state in states:
        layer = nets[state.net + 1].named_nodes.get(state.layer) if state.net + 1 < len(nets) else None
        if layer is None:
            log.info('skipping the state of layer "%s", which is not in this net', state.layer)
            continue
        arrays, own = [to_array(blob) for blob in state.carried], [memory.shape for memory in layer.carried]
        if [a.shape for a in arrays] != own:
            log.warning('layer "%s" starts with states of zero: in the snapshot they have the shapes %s, in this net %s', layer.name, [a.shape for a in arrays], own)
            arrays = [np.zeros(shape, np.float32) for shape in own]
        found.append(Change(layer, state.count, list(zip(layer.carried, arrays)), decode(state.user), state.HasField("user")))
        if found[-1].has_user and layer.keeper() is None:
            log.warning('layer "%s" has no restore_state(), and the snapshot holds a state for it', layer.name)
            found[-1].has_user = False
    kept = {id(change.layer) for change in found if change.has_user}
    for layer in (x for net in nets for x in net.nodes if x.keeper() is not None and id(x) not in kept):
        log.warning('the snapshot holds no state for layer "%s", which keeps its present one', layer.name)
    return found


def restore_users(changes: list[Change]) -> None:
    """Call users' restore_state(). Raises SnapshotError if one of them raises; those called before get their former state back."""
    former: list[tuple[Any, pb.StateValue]] = []
    for change in changes:
        if not change.has_user:
            continue
        keeper, value = change.layer.keeper(), pb.StateValue()
        try:
            _encode(change.layer, keeper, value)                 # a copy: restore_state() may write into what it returned
            former.append((keeper, value))
            keeper.restore_state(change.user)
        except BaseException as e:
            for other, before in reversed(former):
                other.restore_state(decode(before))
            if isinstance(e, SnapshotError) or not isinstance(e, Exception):
                raise
            raise SnapshotError(f'layer "{change.layer.name}": restore_state() raised {type(e).__name__}: {e}') from e


def apply(changes: list[Change]) -> None:
    """Set counters and carried states. This cannot fail."""
    for change in changes:
        if change.layer.counter:
            setattr(change.layer, change.layer.counter, change.count)
        for memory, values in change.carried:
            memory.assign(values)
