"""A step happens whole or not at all, whatever ends it early: Ctrl-C, or an exception in a callback, a hook or a layer.

Ctrl-C waits for the end of the iteration, or of the batch in a test. An iteration that ends before its update is
undone: data, random numbers, carried states and statistics go back to where it began. One that ends within the update
leaves the solver torn.
"""
from __future__ import annotations

import logging
import signal
from _signal import getsignal, signal as set_handler  # type: ignore[import-not-found]  # signal's look for enums: ten times as long
from threading import get_ident, main_thread
from typing import TYPE_CHECKING

from ..engine.errors import Position, SolverError
from ..engine.net import Net

if TYPE_CHECKING:
    from .declaration import Declaration

log = logging.getLogger("brew")
GRADIENTS, UPDATE, DONE, RESTORE = "gradients", "update", "done", "restore"      # stages of a solver; "": between iterations


class Entry:
    """Around what a user calls of a solver. This thread has the solver's nets to itself, the state is whole (or
    SolverError is raised, unless `torn` is allowed), and Ctrl-C waits until the solver asks `interrupt_if_wished`, or
    until the end; a second one does not. Entries may nest."""

    __slots__ = ("solver", "torn", "taken", "outermost", "defers")

    def __init__(self, solver: Declaration, torn: bool = False):
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


def interrupt_if_wished(solver: Declaration) -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed: the state is whole here."""
    if solver.interrupts:
        solver.interrupts = 0
        raise KeyboardInterrupt


def refuse_within(solver: Declaration, what: str, *stages: str) -> None:
    """Raise SolverError if the solver is in one of these stages of an iteration; in any, unless they are given."""
    if solver.stage in (stages or (GRADIENTS, UPDATE, DONE, RESTORE)):
        raise SolverError(f"{what} was called within iteration {solver.iter}: call it between steps", _at(solver))


def _at(solver: Declaration) -> Position | None:
    return Position(solver.file) if solver.file else None


def begin(solver: Declaration) -> None:
    """Before an iteration's forward pass: remember how it was. From here on until `stage` is "" again, `settle` must
    follow."""
    solver.iter_begun, solver.losses_before = solver.iter, solver.losses
    if solver.undo.anything:
        solver.undo.take()
    solver.stage = GRADIENTS


def settle(solver: Declaration) -> None:
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
