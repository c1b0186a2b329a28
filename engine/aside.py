"""Large arrays of a file, in a second one beside it: protobuf ends at 2 GiB. The first has the second's checksum."""
from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path

import numpy as np

from .errors import Position, SnapshotError
from .files import write_whole

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
        self.path, found = path_of(path), hashlib.sha256()
        try:
            with open(self.path, "rb") as file:
                while piece := file.read(1 << 20):
                    found.update(piece)
        except OSError as e:
            raise SnapshotError(f"cannot read the arrays that belong to {path}: {e.strerror}",
                                Position(self.path)) from None
        if found.hexdigest() != sha256:
            raise SnapshotError(f"this file is damaged, or does not belong to {path}", Position(self.path))

    def array(self, begin: int, shape: tuple[int, ...]) -> np.ndarray:
        """float32 values that begin there. Raises ValueError if there are not so many."""
        return np.fromfile(self.path, "<f4", prod(shape), offset=begin).reshape(shape)

    def bytes(self, begin: int, size: int) -> bytes:
        """Bytes that begin there."""
        with open(self.path, "rb") as file:
            file.seek(begin)
            return file.read(size)
