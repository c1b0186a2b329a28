"""State: all that a solver's next iteration depends on beside the weights, as a value."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import weights
from ..engine.arena import Slot
from ..engine.errors import Position, SnapshotError
from ..engine.memory import Memory
from ..engine.store import GPU
from ..proto import brew_pb2 as pb
from . import layer_state
from .iteration import Iteration
from .state_file import reading


@dataclass
class State:
    """What snapshots keep. Arrays have the shapes of the parameters, in plain order."""

    iter: int
    current_step: int = 0
    seed: int | None = None                  # None: Caffe's, which knows neither seed nor layers
    losses: list[float] = field(default_factory=list)
    minimum_loss: float | None = None        # of the plateau policy
    iter_last_event: int = 0
    history: list[np.ndarray] = field(default_factory=list)      # all of the first kind before the second
    average: list[np.ndarray] = field(default_factory=list)
    layer_states: list[pb.LayerState] = field(default_factory=list)
    loss_scale: tuple[float, int] | None = None                  # (factor, good)


def collect(solver: Iteration) -> State:
    """The state of a solver. Raises SnapshotError if a layer of the user refuses to give its own."""
    plateau = solver.param.lr_policy == "plateau"
    return State(
        solver.iter, solver.current_step, solver.seed, list(solver.losses),
        solver.plateau.minimum if plateau else None, solver.plateau.since if plateau else 0,
        [memory.plain() for array in solver.history for memory in parts(solver, array)],
        [] if solver.average is None else [memory.plain() for memory in parts(solver, solver.average)],
        layer_state.collect(solver.nets),
        None if solver.loss_scale is None else (solver.loss_scale.factor, solver.loss_scale.good))


def parts(solver: Iteration, array: Any) -> list[Memory]:
    """The parts of an array like the arena's, one for each parameter."""
    return [solver.arena.as_memory(array, slot) for slot in solver.arena.slots]


def prepare(solver: Iteration, state: State, model: str, path: str) -> Callable[[], None]:
    """Check that a state, and the weights in the file `model`, fit this solver; `path` is what errors name. Returns
    what brings the solver there, which fails only if a layer of the user does, and then changes nothing either.

    Raises SnapshotError or WeightsError.
    """
    at = Position(path)
    # at most one in an iteration
    most = max(len(solver.param.stepvalue), len(solver.param.plateau_winsize), state.iter)
    if state.current_step > most:
        raise SnapshotError(f"this is no solverstate, or a damaged one (it has current_step {state.current_step} at iter {state.iter})", at)
    slots = solver.arena.slots
    if len(state.history) != len(slots) * solver.histories:
        raise SnapshotError(f"the state has {len(state.history)} histories; this solver and net need {len(slots) * solver.histories}", at)
    _check_shapes(state.history, slots * solver.histories, "a history", at)
    average = bool(state.average and solver.param.average_decay)
    if average:
        if len(state.average) != len(slots):
            raise SnapshotError(f"the state has {len(state.average)} averages; this net needs {len(slots)}", at)
        _check_shapes(state.average, slots, "an average", at)
    with reading(path):
        changes = [] if state.seed is None else layer_state.planned(solver.nets, state.layer_states)
    plan = weights.match(solver.net.graph, model)

    def change() -> None:
        try:
            layer_state.restore_users(changes)
        except SnapshotError as e:
            raise SnapshotError(str(e), at) from e.__cause__
        weights.copy(plan)
        fill([memory for array in solver.history for memory in parts(solver, array)], state.history)
        solver.average = None
        if average:
            solver.average = solver.arena.data.copy()
            fill(parts(solver, solver.average), state.average)
        solver.plateau.minimum = solver.plateau.minimum if state.minimum_loss is None else state.minimum_loss
        solver.plateau.since = state.iter_last_event
        solver.iter, solver.current_step, solver.losses = state.iter, state.current_step, list(state.losses)
        if solver.loss_scale is not None and state.loss_scale is not None:
            solver.loss_scale.factor, solver.loss_scale.good = state.loss_scale
        if state.seed is not None:
            solver.seed = state.seed
            for net in solver.nets:
                net.seed = state.seed
                for layer in net.nodes:
                    layer.seed = state.seed
            layer_state.apply(changes)
    return change


def _check_shapes(arrays: list[np.ndarray], slots: list[Slot], what: str, at: Position) -> None:
    for array, slot in zip(arrays, slots, strict=True):
        if not slot.blob.fits(array.shape):
            raise SnapshotError(f"{what} has the shape {array.shape}, its parameter {slot.blob.shape}", at)


def fill(memories: list[Memory], arrays: list[np.ndarray]) -> None:
    """Take values in plain order into parts of the arena."""
    for array, memory in zip(arrays, memories, strict=True):
        home = GPU if memory.store.gpu else memory.store.layout
        memory.assign(array)
        memory.store.read(home)                            # back into the arena
