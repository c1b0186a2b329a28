"""Snapshots: a caffemodel and a solverstate that together hold all that the next iteration depends on.

Both files are readable by Caffe. A state carries a checksum of itself (state_file.py), names its caffemodel and the hash of
it, and is written last: a pair is whole or it is not taken. A training that was killed at any moment and goes on from its
last whole pair ends with the same bits.
"""
from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path

from ..engine import aside, weights
from ..engine.aside import Aside, Beside, beside_of, values_of
from ..engine.errors import BrewError, Position, SnapshotError
from ..engine.files import hash_of
from ..proto import brew_pb2 as pb
from ..proto import from_array
from . import state_file
from .state import State
from .state_file import reading

log = logging.getLogger("brew")
MOST_FORWARDS = 2**40                    # of a layer: no training comes so far, and times a batch size it fits into 64 bits


def save(state: State, prefix: str, hdf5: bool, write_weights: Callable[[str], None],
         write_average: Callable[[str], None] | None = None) -> str:
    """Write a caffemodel and the state of its iteration, and the average of the weights if there is one; returns the
    path of the state. Raises SnapshotError."""
    stem, end = f"{prefix}_iter_{state.iter}", ".h5" if hdf5 else ""
    what = "HDF5" if hdf5 else "binary proto"
    model, path = f"{stem}.caffemodel{end}", f"{stem}.solverstate{end}"
    beside = _aside_of(state, hdf5)
    proto = _to_proto(state, beside, hdf5)
    log.info("Snapshotting to %s file %s", what, model)
    write_weights(model)
    proto.learned_net, proto.learned_net_sha256 = model, hash_of(model)
    if weights.has_aside(model):
        proto.learned_net_aside_sha256 = hash_of(aside.path_of(model))
    if write_average is not None:
        average = average_of(model)
        log.info("Snapshotting the average of the weights to %s", average)
        write_average(average)
        proto.average_net_sha256 = hash_of(average)
    log.info("Snapshotting solver state to %s file %s", what, path)
    if beside is not None:
        proto.aside_sha256 = beside.write(path)
    state_file.write(path, proto)
    return path


def average_of(model: str) -> str:
    """Where the average of the weights lies that belongs to this caffemodel."""
    return re.sub(r"(\.caffemodel(\.h5)?)$", r"_average\1", model)


def _aside_of(state: State, hdf5: bool) -> Aside | None:
    """What takes the large arrays of a state that a protobuf message cannot hold. HDF5 holds histories of any size."""
    arrays = [*state.average, *([] if hdf5 else state.history)]
    size = sum(array.nbytes for array in arrays) + sum(len(value.data) for layer in state.layer_states
                                                       for value in _values(layer.user))
    return Aside() if size > aside.LARGEST else None


def _values(value: pb.StateValue) -> Iterator[pb.StateValue]:
    """A value and all those in it."""
    yield value
    for item in value.item:
        yield from _values(item)


def _to_proto(state: State, beside: Aside | None, hdf5: bool) -> pb.SolverState:
    proto = pb.SolverState(iter=state.iter, current_step=state.current_step, loss_window=state.losses, seed=state.seed)
    if state.minimum_loss is not None:
        proto.minimum_loss, proto.iter_last_event = state.minimum_loss, state.iter_last_event
    if state.loss_scale is not None:
        proto.loss_scale, proto.loss_scale_good = state.loss_scale
    for arrays, blobs in ((state.history, proto.history), (state.average, proto.average)):
        for array in arrays:
            if beside is None or hdf5 and arrays is state.history:
                from_array(array, blobs.add())
            else:
                beside.add_blob(array, blobs.add())
    proto.layer.extend(state.layer_states)
    for layer in proto.layer if beside is not None else ():
        for value in _values(layer.user):
            if len(value.data) >= aside.LARGE:
                value.aside, value.aside_size = beside.add(value.data), len(value.data)      # type: ignore[union-attr]
                value.ClearField("data")
    return proto


def _from_proto(proto: pb.SolverState, path: str) -> State:
    beside = beside_of(proto, path)
    for layer in proto.layer if beside is not None else ():
        for value in _values(layer.user):
            if value.HasField("aside"):
                value.data = beside.bytes(value.aside, value.aside_size)                     # type: ignore[union-attr]
    history, average = ([values_of(blob, beside) for blob in blobs] for blobs in (proto.history, proto.average))
    return State(proto.iter, proto.current_step, proto.seed if proto.HasField("seed") else None,
                 list(proto.loss_window), proto.minimum_loss, proto.iter_last_event, history, average,
                 list(proto.layer), (proto.loss_scale, proto.loss_scale_good) if proto.HasField("loss_scale") else None)


# ------------------------------------------------------------------------------------------------------------ restore

def load(path: str) -> tuple[State, str]:
    """A state, and the path of its caffemodel, which is the very one that it was written with. Raises SnapshotError."""
    if ".caffemodel" in Path(path).name:
        raise SnapshotError("this is a caffemodel: it holds weights, and no iteration or history to go on from"
                            "\n  resume with the .solverstate beside it, or start anew from it with -weights", Position(path))
    proto, checked = _read(path)
    with reading(path):
        state, model = _from_proto(proto, path), _model_of(proto, path)
    _check_average_file(proto, model)
    if not checked:
        log.info("%s has no checksum, as states of Caffe and of former versions: damage would go unnoticed", path)
    return state, model


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
            (state.HasField("loss_scale") and not (isfinite(state.loss_scale) and state.loss_scale > 0),
             f"loss_scale {state.loss_scale}"),
            (not all(map(isfinite, state.loss_window)), f"loss_window {list(state.loss_window)}"),
            (any(x.net < -1 or x.count > MOST_FORWARDS or not isinstance(x.layer, str) for x in state.layer),
             "a layer state with an impossible net number, count or name"),
        ):
            if wrong:
                raise ValueError(f"it has {found}")
    return state, checked


def _model_of(state: pb.SolverState, path: str) -> str:
    """The state's caffemodel: where it says, or beside the state; it must be the very one."""
    places = [Path(state.learned_net), Path(path).parent / Path(state.learned_net).name]
    found = [str(p) for p in places if p.is_file()]
    if not found:
        raise SnapshotError(f"its caffemodel is missing: looked for {places[0]} and {places[1]}", Position(path))
    for model in found:
        if not state.learned_net_sha256 or hash_of(model) == state.learned_net_sha256:
            if state.learned_net_aside_sha256:
                Beside(model, state.learned_net_aside_sha256)
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
                beside_of(state, str(path))
            if not state.learned_net_sha256:                   # Caffe's: only reading it tells
                weights.read(model)
            return str(path)
        except BrewError as e:
            log.warning("passing over a snapshot: %s", e)
    return None
