"""Snapshots: a caffemodel and a solverstate that together hold all that the next iteration depends on.

Both files are readable by Caffe. A state carries a checksum of itself (state_file.py), names its caffemodel and the hash of
it, and is written last: a pair is whole or it is not taken. A training that was killed at any moment and goes on from its
last whole pair ends with the same bits.
"""
from __future__ import annotations

import glob
import logging
import re
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import weights
from ..engine.arena import Slot
from ..engine.errors import BrewError, Position, SnapshotError
from ..engine.layout import PLAIN
from ..proto import brew_pb2 as pb
from ..proto import from_array, to_array
from . import layer_state, state_file
from .state_file import hash_of, reading

if TYPE_CHECKING:
    from .solver import Solver

log = logging.getLogger("brew")
MOST_FORWARDS = 2**40                    # of a layer: no training comes so far, and times a batch size it fits into 64 bits


def prefix_of(param: pb.SolverParameter, file: str) -> str:
    """What snapshots' names begin with: snapshot_prefix, or the solver's file without its ending; in a folder, its name."""
    stem = Path(file).with_suffix("") if file else Path("brew")
    prefix = Path(param.snapshot_prefix) if param.snapshot_prefix else stem
    return str(prefix / stem.name) if param.snapshot_prefix and prefix.is_dir() else param.snapshot_prefix or str(stem)


def check_writable(prefix: str) -> None:
    """Raise SnapshotError unless files with this prefix can be written."""
    probe = Path(f"{prefix}.probe")
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise SnapshotError(f"snapshots cannot be written here: {e.strerror}\n  snapshot_prefix must lie in a folder that exists and is writable", Position(prefix)) from None


def save(solver: Solver) -> str:
    """Write both files of this iteration; returns the path of the state."""
    hdf5 = solver.param.snapshot_format == pb.SolverParameter.HDF5
    stem, end = f"{solver.prefix}_iter_{solver.iter}", ".h5" if hdf5 else ""
    what = "HDF5" if hdf5 else "binary proto"
    model, path = f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}"
    layer_state.warn_of_forgetting(solver)
    state = _state(solver, model)                # before any file: a layer may refuse
    log.info("Snapshotting to %s file %s", what, model)
    (solver.net.save_hdf5 if hdf5 else solver.net.save)(model, solver.param.snapshot_diff)
    state.learned_net_sha256 = hash_of(model)
    if solver.average is not None:
        average = average_of(model)
        log.info("Snapshotting the average of the weights to %s", average)
        with solver.averaged():
            (solver.net.save_hdf5 if hdf5 else solver.net.save)(average)
        state.average_net_sha256 = hash_of(average)
    log.info("Snapshotting solver state to %s file %s", what, path)
    state_file.write(path, state)
    return path


def average_of(model: str) -> str:
    """Where the average of the weights lies that belongs to this caffemodel."""
    return re.sub(r"(\.caffemodel(\.h5)?)$", r"_average\1", model)


def _state(solver: Solver, model: str) -> pb.SolverState:
    state = pb.SolverState(iter=solver.iter, learned_net=model, current_step=solver.current_step, seed=solver.seed,
                           loss_window=solver.losses)
    for memory in _histories(solver):
        from_array(memory.store.read(PLAIN).reshape(memory.shape), state.history.add())
    if solver.param.lr_policy == "plateau":
        state.minimum_loss, state.iter_last_event = solver.plateau.minimum, solver.plateau.since
    if solver.average is not None:
        for memory in _memories(solver, solver.average):
            from_array(memory.store.read(PLAIN).reshape(memory.shape), state.average.add())
    state.layer.extend(layer_state.collect(solver))
    return state


def _histories(solver: Solver) -> list[Any]:
    """One Memory for each parameter's history, all of the first kind before the second."""
    return [memory for array in solver.history for memory in _memories(solver, array)]


def _memories(solver: Solver, array: Any) -> list[Any]:
    """The parts of an array like the arena's, one for each parameter."""
    return [solver.arena.as_memory(array, slot) for slot in solver.arena.slots]


def _fill(memories: list[Any], arrays: list[np.ndarray]) -> None:
    """Take values in plain order into parts of the arena."""
    for array, memory in zip(arrays, memories):
        layout = memory.store.home
        memory.store.write(PLAIN)[...] = array.ravel()
        memory.store.read(layout)                          # back into the arena


# ------------------------------------------------------------------------------------------------------------ restore

def restore(solver: Solver, path: str) -> None:
    """Bring a solver to a state. All of it is read and checked before anything changes. Raises SnapshotError or WeightsError."""
    if ".caffemodel" in Path(path).name:
        raise SnapshotError("this is a caffemodel: it holds weights, and no iteration or history to go on from"
                            "\n  resume with the .solverstate beside it, or start anew from it with -weights", Position(path))
    state, checked = _read(path)
    with reading(path):
        _check_step(solver, state)
        histories = _histories(solver)
        if len(state.history) != len(histories):
            raise SnapshotError(f"the state has {len(state.history)} histories; this solver and net need {len(histories)}", Position(path))
        arrays = _fitting(state.history, solver.arena.slots * solver.histories, "a history", path)
        average = _average(solver, state, path)
        changes = layer_state.planned(solver, state.layer) if state.HasField("seed") else []
        model = _model_of(state, path)
    plan = weights.match(solver.net.graph, model)
    _check_average_file(state, model)
    try:
        layer_state.restore_users(changes)
    except SnapshotError as e:
        raise SnapshotError(str(e), Position(path)) from e.__cause__
    weights.copy(plan)
    _fill(histories, arrays)
    solver.average = average
    solver.plateau.minimum, solver.plateau.since = state.minimum_loss, state.iter_last_event
    solver.iter, solver.current_step, solver.losses = state.iter, state.current_step, list(state.loss_window)
    if state.HasField("seed"):
        solver.seed = state.seed
        for net in solver.nets:
            net.seed = state.seed
            for layer in net.nodes:
                layer.seed = state.seed
        layer_state.apply(changes)
    if not checked:
        log.info("%s has no checksum, as states of Caffe and of former versions: damage would go unnoticed", path)
    log.info("Restored iteration %d from %s", state.iter, path)


def _read(path: str) -> tuple[pb.SolverState, bool]:
    """A state whose numbers make sense for some solver, and whether it has a checksum."""
    state, checked = state_file.read(path)
    with reading(path):
        for wrong, found in (
            (not state.HasField("iter"), "no iter"),
            (state.iter < 0, f"iter {state.iter}"),
            (state.current_step < 0, f"current_step {state.current_step}"),
            (state.iter_last_event < 0, f"iter_last_event {state.iter_last_event}"),
            (not isfinite(state.minimum_loss), f"minimum_loss {state.minimum_loss}"),
            (not all(map(isfinite, state.loss_window)), f"loss_window {list(state.loss_window)}"),
            (any(x.net < -1 or x.count > MOST_FORWARDS or not isinstance(x.layer, str) for x in state.layer),
             "a layer state with an impossible net number, count or name"),
        ):
            if wrong:
                raise ValueError(f"it has {found}")
    return state, checked


def _check_step(solver: Solver, state: pb.SolverState) -> None:
    steps = max(len(solver.param.stepvalue), len(solver.param.plateau_winsize), state.iter)        # at most one in an iteration
    if state.current_step > steps:
        raise ValueError(f"it has current_step {state.current_step} at iter {state.iter}")


def _fitting(blobs: Any, slots: list[Slot], what: str, path: str) -> list[np.ndarray]:
    """The arrays of blobs, one for each slot and of its shape. Raises SnapshotError."""
    arrays = [to_array(blob) for blob in blobs]
    for array, slot in zip(arrays, slots, strict=True):
        if not slot.blob.fits(array.shape):
            raise SnapshotError(f"{what} has the shape {array.shape}, its parameter {slot.blob.shape}", Position(path))
    return arrays


def _average(solver: Solver, state: pb.SolverState, path: str) -> Any:
    """The average of the weights as an array like the arena's, or None if the state has none or the solver keeps none."""
    if not (state.average and solver.param.average_decay):
        return None
    slots = solver.arena.slots
    if len(state.average) != len(slots):
        raise SnapshotError(f"the state has {len(state.average)} averages; this net needs {len(slots)}", Position(path))
    arrays = _fitting(state.average, slots, "an average", path)
    average = solver.arena.data.copy()
    _fill(_memories(solver, average), arrays)
    return average


def _model_of(state: pb.SolverState, path: str) -> str:
    """The state's caffemodel: where it says, or beside the state; it must be the very one."""
    places = [Path(state.learned_net), Path(path).parent / Path(state.learned_net).name]
    found = [str(p) for p in places if p.is_file()]
    if not found:
        raise SnapshotError(f"its caffemodel is missing: looked for {places[0]} and {places[1]}", Position(path))
    for model in found:
        if not state.learned_net_sha256 or hash_of(model) == state.learned_net_sha256:
            return model
    raise SnapshotError(f"{found[0]} is not the caffemodel that this state was written with", Position(path))


def _check_average_file(state: pb.SolverState, model: str) -> None:
    """Say if the file with the average is damaged. Resuming does not need it: the state has the average, too."""
    average = average_of(model)
    if state.average_net_sha256 and Path(average).is_file() and hash_of(average) != state.average_net_sha256:
        log.warning("%s is damaged, or of another training: do not use it\n  resuming is not affected: the solverstate holds the average itself", average)


def newest(prefix: str) -> str | None:
    """The state of the last whole snapshot with this prefix, or None."""
    def number(path: Path) -> int:
        match = re.search(r"_iter_(\d+)\.solverstate", path.name)
        return int(match[1]) if match else -1
    found = [p for p in Path(prefix).parent.glob(f"{glob.escape(Path(prefix).name)}_iter_*.solverstate*") if p.suffix in (".solverstate", ".h5")]
    for path in sorted(found, key=number, reverse=True):
        try:
            state, _ = _read(str(path))
            with reading(str(path)):
                model = _model_of(state, str(path))
            if not state.learned_net_sha256:                   # Caffe's: only reading it tells
                weights.read(model)
            return str(path)
        except BrewError as e:
            log.warning("passing over a snapshot: %s", e)
    return None
