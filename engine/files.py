"""Files that are whole or not there: written aside, synced, renamed."""
from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import Position, SnapshotError


def check_writable(*paths: str | Path) -> None:
    """Raise SnapshotError, as write_whole() would, if files cannot be written at these paths, or if two of them are the
    same. Changes nothing. Commands call it for all outputs before they do anything else.
    """
    places = [Path(path) for path in paths]
    for path in places:
        if [other.absolute() for other in places].count(path.absolute()) > 1:
            raise SnapshotError("two results would be written to this file", Position(str(path)))
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=path.parent):      # without a name, where the file system can
                pass
        except (OSError, ValueError) as e:
            raise _unwritable(path, e) from None


def check_folder(path: str | Path) -> None:
    """Raise SnapshotError unless `path` is a writable folder, or one can be created there. Changes nothing."""
    existing = Path(path).absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from None


def write_whole(path: str | Path, write: Callable[[Path], object] | bytes | memoryview) -> None:
    """Write a file so that at no moment, whatever happens, `path` is half of it.

    `write` is its bytes, or writes them to the path it is given.  Raises SnapshotError; what was at `path` then stays.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if callable(write):
            write(aside)
        else:
            aside.write_bytes(write)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as e:
        raise _unwritable(path, e) from None
    finally:
        aside.unlink(missing_ok=True)


def _unwritable(path: str | Path, e: Exception) -> SnapshotError:
    return SnapshotError(f"cannot write: {getattr(e, 'strerror', None) or e}", Position(str(path)))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_of(path: str | Path, start: int = 0) -> str:
    """The SHA-256 of a file from this byte on, in hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def h5_bytes(fill: Callable[[Any], object], userblock: int = 0) -> memoryview:
    """The bytes of the HDF5 file that fill(file) makes, in memory: when a disk fills up under HDF5 1.14, the process crashes."""
    import h5py
    made = io.BytesIO()
    with h5py.File(made, "w", userblock_size=userblock) as file:
        fill(file)
    return made.getbuffer()


def h5_members(group: Any) -> dict[str, Any]:
    """{name: member} of a group. h5py's own values() and items() hold its global lock while they are not exhausted: after an
    error on the way, as long as somebody keeps the exception, and no other thread could read HDF5."""
    return {name: group[name] for name in list(group)}


def h5_array(dataset: Any) -> np.ndarray:
    """The values of an HDF5 dataset. Raises ValueError for one that claims to be larger than its file: with a damaged shape,
    reading it would take all memory there is."""
    if not dataset.chunks and dataset.nbytes > dataset.file.id.get_filesize():
        raise ValueError(f"the dataset {dataset.name} has the shape {dataset.shape}, more than the file can hold")
    array: np.ndarray = dataset[()]
    return array
