"""What a run of a net changes beside its weights, to be put back: so that an iteration, or a test, may be repeated."""
from __future__ import annotations

from copy import deepcopy
from operator import attrgetter
from typing import Any

from ..engine.layer import Layer
from ..engine.net import Net


class Undo:
    """What a run of a net changes beside the weights, as it is now, to be put back: counters, carried states and
    statistics. With `users`, also what layers in Python return as their state."""

    def __init__(self, net: Net, users: bool = False):
        self.net = net
        self.counted = _by_name([(layer, layer.counter) for layer in net.nodes if layer.counter])
        self.hidden = _by_name([(layer, layer.hidden_counter) for layer in net.nodes if layer.hidden_counter])
        self.carriers = [(i, layer) for i, layer in enumerate(net.nodes) if layer.carried]
        self.users = [user for user in (layer.keeper() for layer in net.nodes) if user is not None] if users else []
        self.markers = [layer for layer in net.nodes if type(layer).mark is not Layer.mark]
        self.measures = net.arena is not None and bool(net.arena.measured)
        self.anything = bool(self.counted or self.hidden or self.carriers or self.users or self.measures)
        self.take()

    def take(self) -> None:
        for layer in self.markers:
            layer.mark()
        self.counts = [list(map(count, layers)) for _, count, layers in self.counted]
        self.runs = [list(map(count, layers)) for _, count, layers in self.hidden]
        self.carried = [(layer.carried, [m.read().copy() for m in layer.carried]) for _, layer in self.carriers]
        self.statistics = self.net.arena.statistics() if self.measures else None       # type: ignore[union-attr]
        self.states = [deepcopy(user.snapshot_state()) for user in self.users]

    def put_back(self) -> Any:
        """Returns the first layer that cannot go back, or None."""
        self.net.context.activate()
        for user, state in zip(self.users, self.states):
            user.restore_state(state)
        for (name, count, layers), counts in zip(self.counted, self.counts):
            for layer, before in zip(layers, counts):
                if count(layer) != before:
                    setattr(layer, name, before)
        for (i, layer), (memories, arrays) in zip(self.carriers, self.carried):
            layer.carried = memories
            for memory, array in zip(memories, arrays):
                memory.write()[...] = array
            self.net.forget_shapes(i)
        if self.statistics is not None:
            self.net.arena.set_statistics(self.statistics)         # type: ignore[union-attr]
        for (_, count, layers), runs in zip(self.hidden, self.runs):
            for layer, before in zip(layers, runs):
                if count(layer) != before:
                    return layer
        return None


def _by_name(counters: list[tuple[Layer, str]]) -> list[tuple[str, Any, list[Layer]]]:
    """(name, how to get it, layers) for each attribute."""
    names = dict.fromkeys(name for _, name in counters)
    return [(name, attrgetter(name), [layer for layer, of in counters if of == name]) for name in names]
