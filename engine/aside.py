"""Large arrays of a file, in a second one beside it: protobuf ends at 2 GiB. The first has the second's checksum."""
from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import from_array, shape_of, to_array
from .errors import Position, SnapshotError
from .files import hash_of, write_whole

LARGEST = 2**30              # bytes of arrays that a file holds itself
LARGE = 2**20                # bytes of an array that goes aside, if any do


def path_of(path: str | Path) -> str:
    """Where the arrays of a file lie."""
    return f"{path}.data"


class Aside:
    """Arrays to be written beside a file."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.size = 0

    def add(self, part: np.ndarray | bytes) -> int:
        """Take float32 values, or bytes; returns where they will begin."""
        begin = self.size
        data = part if isinstance(part, bytes) else np.ascontiguousarray(part, "<f4").reshape(-1).view(np.uint8)
        self.parts.append(memoryview(data))                    # type: ignore[arg-type]
        self.size += self.parts[-1].nbytes
        return begin

    def add_blob(self, array: np.ndarray, proto: pb.BlobProto) -> None:
        """Fill a BlobProto with an array, or if that is large, with the place where it lies."""
        if array.nbytes < LARGE:
            from_array(array, proto)
        else:
            proto.aside = self.add(array)
            proto.shape.dim[:] = array.shape

    def write(self, path: str | Path) -> str:
        """Write all parts beside the file `path`; returns their SHA-256. Raises SnapshotError."""
        found = hashlib.sha256()

        def fill(aside: Path) -> None:
            with open(aside, "wb") as file:
                for part in self.parts:
                    found.update(part)
                    file.write(part)
        write_whole(path_of(path), fill)
        return found.hexdigest()


class Beside:
    """The arrays beside a file. Raises SnapshotError if they are missing, or not those that it was written with."""

    def __init__(self, path: str | Path, sha256: str):
        self.path = path_of(path)
        try:
            found = hash_of(self.path)
        except OSError as e:
            raise SnapshotError(f"cannot read the arrays that belong to {path}: {e.strerror}",
                                Position(self.path)) from None
        if found != sha256:
            raise SnapshotError(f"this file is damaged, or does not belong to {path}", Position(self.path))

    def bytes(self, begin: int, size: int) -> bytes:
        """Bytes that begin there."""
        with open(self.path, "rb") as file:
            file.seek(begin)
            return file.read(size)


def values_of(blob: pb.BlobProto, beside: Beside | None) -> np.ndarray:
    """The values of a BlobProto, which may lie in the file `beside`. Raises WeightsError or ValueError if their number does
    not fit."""
    if beside is None or not blob.HasField("aside"):
        return to_array(blob)
    shape = shape_of(blob)
    return np.fromfile(beside.path, "<f4", prod(shape), offset=blob.aside).reshape(shape)


def beside_of(proto: pb.NetParameter | pb.SolverState, path: str) -> Beside | None:
    """The file beside the one at `path` from which this message was read, if there is one. Raises SnapshotError."""
    return Beside(path, proto.aside_sha256) if proto.HasField("aside_sha256") else None
