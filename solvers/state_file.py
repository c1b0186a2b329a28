"""Solverstates as files, binary and HDF5, which carry a checksum and which Caffe can read.

A binary state begins and ends with its field `sha256`, the hash of what lies in between: protobuf takes a field anywhere,
and twice, and neither a flipped bit nor a cut can remove both. An HDF5 state has its hash in the user block, the bytes
before the data which HDF5 leaves to applications. Damage is thus found before protobuf or HDF5 parse anything.
States of Caffe, and those that brew wrote formerly, have no checksum.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import Position, SnapshotError
from ..engine.files import h5_array, h5_bytes, hash_of, write_whole
from ..proto import brew_pb2 as pb
from ..proto import from_array, to_array

TAG = bytes([0xEA, 0x3E, 32])                                  # the field 1005, of type bytes and with a length of 32
END = len(TAG) + 32
BLOCK = 512                                                    # the smallest user block
TEXT = b"brew solverstate. SHA-256 of what follows these 512 bytes: "
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Within, whatever goes wrong is a SnapshotError about this file: protobuf and h5py raise nearly every exception there is
    on damaged files."""
    try:
        yield
    except SnapshotError:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.filename is not None:            # open()'s, not h5py's
            what = "this solverstate" if str(e.filename) == path else e.filename
            raise SnapshotError(f"cannot read {what}: {e.strerror}", Position(path)) from None
        raise SnapshotError(f"this is no solverstate, or a damaged one ({str(e) or type(e).__name__})", Position(path)) from None


def write(path: str, state: pb.SolverState) -> None:
    """Write a state, as HDF5 if the name ends in .h5. Raises SnapshotError."""
    if path.endswith(".h5"):
        data = h5_bytes(lambda file: _fill_hdf5(file, state), BLOCK)
        data[:BLOCK] = _block(hashlib.sha256(data[BLOCK:]).hexdigest())
        write_whole(path, data)
    else:
        write_whole(path, lambda aside: _write_binary(aside, state))


def read(path: str) -> tuple[pb.SolverState, bool]:
    """A state, and whether a checksum vouches for it. Raises SnapshotError."""
    with reading(path):
        return _read_hdf5(path) if path.endswith(".h5") else _read_binary(path)


def _require_whole(whole: bool, path: str) -> None:
    if not whole:
        raise SnapshotError("this solverstate is damaged or cut short: it does not have the checksum that it was written with"
                            "\n  resume from an earlier one; -snapshot auto takes the newest that is whole", Position(path))


# ------------------------------------------------------------------------------------------------------------- binary

def _write_binary(aside: Path, state: pb.SolverState) -> None:
    data = state.SerializeToString()
    end = TAG + hashlib.sha256(data).digest()
    with open(aside, "wb") as file:
        file.writelines((end, data, end))


def _read_binary(path: str) -> tuple[pb.SolverState, bool]:
    data = Path(path).read_bytes()
    first, last = data[:END], data[-END:]
    checked = first.startswith(TAG) or last.startswith(TAG)
    if checked:
        _require_whole(first == last == TAG + hashlib.sha256(memoryview(data)[END:-END]).digest(), path)
    state = pb.SolverState()
    state.ParseFromString(data)
    return state, checked


# --------------------------------------------------------------------------------------------------------------- HDF5

def _fill_hdf5(file: Any, state: pb.SolverState) -> None:
    """Caffe's datasets, and the rest of the message as bytes in "brew"."""
    rest = pb.SolverState()
    for field, value in state.ListFields():                    # CopyFrom() would copy the histories, only to drop them
        if field.name != "history":
            getattr(rest, field.name).MergeFrom(value) if field.is_repeated else setattr(rest, field.name, value)
    file["iter"], file["current_step"] = state.iter, state.current_step
    file["learned_net"] = np.bytes_(state.learned_net.encode())         # of fixed length: Caffe reads no other strings
    history = file.create_group("history")
    for i, blob in enumerate(state.history):
        history[str(i)] = to_array(blob)
    file["brew"] = np.frombuffer(rest.SerializeToString(), np.uint8)


def _block(digest: str) -> bytes:
    return (TEXT + digest.encode() + b"\n").ljust(BLOCK, b"\0")


def _read_hdf5(path: str) -> tuple[pb.SolverState, bool]:
    import h5py
    with open(path, "rb") as raw:
        first = raw.read(BLOCK)
    checked = not first.startswith(SIGNATURE)
    if checked:
        _require_whole(first == _block(hash_of(path, BLOCK)), path)
    state = pb.SolverState()
    with h5py.File(path, "r") as file:
        iteration, step, learned = (file[name][()] for name in ("iter", "current_step", "learned_net"))
        if "brew" in file:
            state.ParseFromString(h5_array(file["brew"]).tobytes())
            if (state.iter, state.current_step) != (iteration, step):
                raise ValueError(f"its iter is {iteration} in one place and {state.iter} in another")
        state.iter, state.current_step = int(iteration), int(step)
        state.learned_net = learned.decode() if isinstance(learned, bytes) else str(learned)
        for i in range(len(file["history"])):
            from_array(h5_array(file["history"][str(i)]).astype(np.float32), state.history.add())
    return state, checked
