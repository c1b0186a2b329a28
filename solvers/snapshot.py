"""Snapshots: a caffemodel and a solverstate that together hold all that the next iteration depends on.

Both files are readable by Caffe. A state names its caffemodel and the hash of it, and is written last: a pair is whole
or it is not taken. A training that was killed at any moment and goes on from its last whole pair ends with the same bits.
"""
from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.errors import Position, SnapshotError, WeightsError, read_bytes
from ..engine.files import h5_bytes, write_whole
from ..engine.layout import PLAIN
from ..proto import brew_pb2 as pb
from ..proto import from_array, read_binary, to_array

if TYPE_CHECKING:
    from .solver import Solver

log = logging.getLogger("brew")


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
    log.info("Snapshotting to %s file %s", what, model)
    (solver.net.save_hdf5 if hdf5 else solver.net.save)(model, solver.param.snapshot_diff)
    if solver.average is not None:
        average = f"{stem}_average.caffemodel{end}"
        log.info("Snapshotting the average of the weights to %s", average)
        with solver.averaged():
            (solver.net.save_hdf5 if hdf5 else solver.net.save)(average)
    log.info("Snapshotting solver state to %s file %s", what, path)
    state = _state(solver, model)
    write_whole(path, h5_bytes(lambda file: _fill_hdf5(file, state)) if hdf5 else state.SerializeToString())
    return path


def _state(solver: Solver, model: str) -> pb.SolverState:
    state = pb.SolverState(iter=solver.iter, learned_net=model, current_step=solver.current_step, seed=solver.seed,
                           loss_window=solver.losses, learned_net_sha256=_hash(model))
    for memory in _histories(solver):
        from_array(memory.store.read(PLAIN).reshape(memory.shape), state.history.add())
    if solver.param.lr_policy == "plateau":
        state.minimum_loss, state.iter_last_event = solver.plateau.minimum, solver.plateau.since
    if solver.average is not None:
        for memory in _memories(solver, solver.average):
            from_array(memory.store.read(PLAIN).reshape(memory.shape), state.average.add())
    state.layer.extend(layer_states(solver))
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


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


def layer_states(solver: Solver) -> list[pb.LayerState]:
    """The counters and carried states of all layers that have some."""
    found = []
    for number, net in enumerate(solver.nets, -1):
        for layer in net.layers:
            if layer.counter or layer.carried:
                found.append(pb.LayerState(net=number, layer=layer.name, count=getattr(layer, layer.counter) if layer.counter else 0))
                for memory in layer.carried:
                    from_array(memory.store.read(PLAIN).reshape(memory.shape), found[-1].carried.add())
    return found


def set_layer_states(solver: Solver, states: Any) -> None:
    """Bring layers back to what layer_states gave; layers that are no longer there are passed over."""
    for state in states:
        layer = solver.nets[state.net + 1].layer_dict.get(state.layer) if state.net + 1 < len(solver.nets) else None
        if layer is not None and layer.counter:
            setattr(layer, layer.counter, state.count)
        for memory, blob in zip(layer.carried if layer is not None else (), state.carried):
            values = to_array(blob)
            if values.size == memory.store.size:
                memory.store.write(PLAIN)[...] = values.ravel()


def restore(solver: Solver, path: str) -> None:
    """Bring a solver to a state. Nothing changes if the state or its caffemodel cannot be used."""
    if ".caffemodel" in Path(path).name:
        raise SnapshotError("this is a caffemodel: it holds weights, and no iteration or history to go on from"
                            "\n  resume with the .solverstate beside it, or start anew from it with -weights", Position(path))
    state = _read_hdf5(path) if path.endswith(".h5") else read_binary(path, pb.SolverState(), "solverstate")
    histories = _histories(solver)
    if len(state.history) != len(histories):
        raise SnapshotError(f"the state has {len(state.history)} histories; this solver and net need {len(histories)}", Position(path))
    arrays, averages = ([to_array(blob) for blob in blobs] for blobs in (state.history, state.average))
    for array, memory in zip([*arrays, *averages], [*histories, *_memories(solver, solver.arena.data)]):
        if array.size != memory.store.size:
            raise SnapshotError(f"a history has the shape {array.shape}, its parameter {memory.shape}", Position(path))
    solver.net.copy_from(_model_of(state, path))
    _fill(histories, arrays)
    if averages and solver.param.average_decay:
        solver.average = solver.arena.data.copy()
        _fill(_memories(solver, solver.average), averages)
    solver.plateau.minimum, solver.plateau.since = state.minimum_loss, state.iter_last_event
    solver.iter, solver.current_step, solver.losses = state.iter, state.current_step, list(state.loss_window)
    if state.HasField("seed"):
        solver.seed = state.seed
        for net in solver.nets:
            net.seed = state.seed
            for layer in net.layers:
                layer.seed = state.seed
        set_layer_states(solver, state.layer)
    log.info("Restored iteration %d from %s", state.iter, path)


def _model_of(state: pb.SolverState, path: str) -> str:
    """The state's caffemodel: where it says, or beside the state; it must be the very one."""
    places = [Path(state.learned_net), Path(path).parent / Path(state.learned_net).name]
    found = [str(p) for p in places if p.is_file()]
    if not found:
        raise SnapshotError(f"its caffemodel is missing: looked for {places[0]} and {places[1]}", Position(path))
    for model in found:
        if not state.learned_net_sha256 or _hash(model) == state.learned_net_sha256:
            return model
    raise SnapshotError(f"{found[0]} is not the caffemodel that this state was written with", Position(path))


def newest(prefix: str) -> str | None:
    """The state of the last whole snapshot with this prefix, or None."""
    def number(path: Path) -> int:
        match = re.search(r"_iter_(\d+)\.solverstate", path.name)
        return int(match[1]) if match else -1
    found = [p for p in Path(prefix).parent.glob(f"{Path(prefix).name}_iter_*.solverstate*") if p.suffix in (".solverstate", ".h5")]
    for path in sorted(found, key=number, reverse=True):
        try:
            _model_of(_read_hdf5(str(path)) if path.suffix == ".h5" else read_binary(path, pb.SolverState(), "solverstate"), str(path))
            return str(path)
        except (SnapshotError, WeightsError) as e:
            log.warning("passing over a snapshot: %s", e)
    return None


# --------------------------------------------------------------------------------------------------------------- HDF5

def _fill_hdf5(file: Any, state: pb.SolverState) -> None:
    """Caffe's datasets, and the rest of the message as bytes in "brew"."""
    rest = pb.SolverState()
    rest.CopyFrom(state)
    rest.ClearField("history")
    file["iter"], file["current_step"] = state.iter, state.current_step
    file["learned_net"] = np.bytes_(state.learned_net.encode())         # of fixed length: Caffe reads no other strings
    history = file.create_group("history")
    for i, blob in enumerate(state.history):
        history[str(i)] = to_array(blob)
    file["brew"] = np.frombuffer(rest.SerializeToString(), np.uint8)


def _read_hdf5(path: str) -> pb.SolverState:
    import h5py
    read_bytes(path, "this solverstate", WeightsError)
    state = pb.SolverState()
    try:
        with h5py.File(path, "r") as file:
            if "brew" in file:
                state.ParseFromString(bytes(file["brew"][...]))
            state.iter, state.current_step = int(file["iter"][()]), int(file["current_step"][()])
            learned = file["learned_net"][()]
            state.learned_net = learned.decode() if isinstance(learned, bytes) else str(learned)
            for i in range(len(file["history"])):
                from_array(file["history"][str(i)][...], state.history.add())
    except (OSError, KeyError, ValueError) as e:
        raise WeightsError(f"this is no HDF5 solverstate, or only a part of one ({e})", Position(path)) from None
    return state
