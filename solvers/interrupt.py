"""A step happens whole or not at all, whatever ends it early: Ctrl-C, or an exception in a callback, a hook or a layer.

Ctrl-C waits for the end of the iteration, or of the batch in a test. An iteration that ends before its update is
undone: data, random numbers, carried states and statistics go back to where it began. One that ends within the update
leaves the solver torn.
"""
from __future__ import annotations

import logging
import signal
from _signal import getsignal, signal as set_handler  # type: ignore[import-not-found]  # signal's look for enums: ten times as long
from copy import deepcopy
from operator import attrgetter
from threading import get_ident, main_thread
from typing import TYPE_CHECKING, Any

from ..engine.errors import Position, SolverError
from ..engine.layer import Layer
from ..engine.net import Net

if TYPE_CHECKING:
    from .solver import Solver

log = logging.getLogger("brew")
GRADIENTS, UPDATE, DONE, RESTORE = "gradients", "update", "done", "restore"      # stages of a solver; "": between iterations


class Entry:
    """Around what a user calls of a solver. This thread has the solver's nets to itself, the state is whole (or
    SolverError is raised, unless `torn` is allowed), and Ctrl-C waits until the solver asks `interrupt_if_wished`, or
    until the end; a second one does not. Entries may nest."""

    __slots__ = ("solver", "torn", "taken", "outermost", "defers")

    def __init__(self, solver: Solver, torn: bool = False):
        self.solver, self.torn = solver, torn
        self.taken: list[Net] = []
        self.outermost = self.defers = False

    def __enter__(self) -> None:
        solver, me = self.solver, get_ident()
        if solver.entered and solver.net.use.owner == me:
            return
        solver.interrupts = 0
        self.defers = me == main_thread().ident and getsignal(signal.SIGINT) is signal.default_int_handler
        if self.defers:
            set_handler(signal.SIGINT, self._wish)
        try:
            for net in solver.nets:
                if net.use.take():
                    self.taken.append(net)
            self.outermost = solver.entered = True
            if solver.stage:
                settle(solver)
            if solver.torn and not self.torn:
                raise SolverError(f'the state of this solver is torn: {solver.torn}\n  restore() a snapshot or make a new '
                                  'solver; solver.torn = "" goes on with what there is', _at(solver))
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        if self.outermost:
            self._leave()
            if self.defers and self.solver.interrupts:
                raise KeyboardInterrupt

    def _leave(self) -> None:
        if self.outermost:
            self.solver.entered = False
        for net in self.taken:
            net.use.leave()
        if self.defers:
            set_handler(signal.SIGINT, signal.default_int_handler)

    def _wish(self, *_: object) -> None:
        self.solver.interrupts += 1
        if self.solver.interrupts > 1:
            raise KeyboardInterrupt
        log.warning("Interrupted: stopping at the end of this iteration. A second Ctrl-C stops at once.")


def interrupt_if_wished(solver: Solver) -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed: the state is whole here."""
    if solver.interrupts:
        solver.interrupts = 0
        raise KeyboardInterrupt


def refuse_within(solver: Solver, what: str, *stages: str) -> None:
    """Raise SolverError if the solver is in one of these stages of an iteration; in any, unless they are given."""
    if solver.stage in (stages or (GRADIENTS, UPDATE, DONE, RESTORE)):
        raise SolverError(f"{what} was called within iteration {solver.iter}: call it between steps", _at(solver))


def _at(solver: Solver) -> Position | None:
    return Position(solver.file) if solver.file else None


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


def begin(solver: Solver) -> None:
    """Before an iteration's forward pass: remember how it was. From here on until `stage` is "" again, `settle` must
    follow."""
    solver.iter_begun, solver.losses_before = solver.iter, solver.losses
    if solver.undo.anything:
        solver.undo.take()
    solver.stage = GRADIENTS


def settle(solver: Solver) -> None:
    """End an iteration that an exception ended: complete it, undo it, or call the state torn. May itself be
    interrupted, and called again."""
    if solver.stage == DONE:
        solver.iter = solver.iter_begun + 1
    elif solver.stage == GRADIENTS:
        solver.losses = solver.losses_before
        stuck = solver.undo.put_back()
        if stuck is not None:
            solver.torn = (f'iteration {solver.iter} was interrupted, and layer "{stuck.name}" (type "{stuck.type}") '
                           "cannot go back to the batch it began with")
    elif solver.stage == UPDATE:
        solver.torn = f"the update of iteration {solver.iter} was interrupted"
    else:
        solver.torn = "restore() was interrupted"
    solver.stage = ""
